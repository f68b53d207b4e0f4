#include "nn/batch_norm_layer.hpp"

namespace syncbn {

BatchNormLayer::BatchNormLayer(const LayerContext& context, int index, const LayerTensors& tensors)
    : context_(context),
      t_(tensors),
      parameters_(context, index),
      running_(context, index),
      population_(context, index),
      relu_(fused_relu(context.spec(index))),
      mask_(relu_mask(context, relu_, tensors.x)),
      pass_(context.backend.batch_norm(), context.spec(index).name, tensors.x.shape.c(),
            context.state.norm().options.eps, context.group),
      d_gamma_(static_cast<std::size_t>(tensors.x.shape.c())),
      d_beta_(d_gamma_.size()) {}

void BatchNormLayer::begin(const Pass& pass) {
  if (uses_batch(pass)) {
    pass_.begin();
  } else if (pass.statistics == Statistics::precise) {
    pass_.use_statistics(population_.mean(), population_.moments(), parameters_.gamma(), parameters_.beta());
  } else {
    pass_.use_statistics(running_.mean(), running_.var(), parameters_.gamma(), parameters_.beta());
  }
}

void BatchNormLayer::exchange(const Pass& pass) {
  pass_.start(pass.step);
  const std::optional<RenormOptions>& renorm = context_.state.norm().renorm;
  std::optional<RenormReference> reference;
  if (renorm && pass.mode == Mode::train) {
    reference = RenormReference{running_.mean(), running_.var(), renorm_limits(*renorm, pass.progress)};
  }
  pass_.finish(parameters_.gamma(), parameters_.beta(), reference);
  if (pass.population) population_.add(pass_.count(), pass_.mean(), pass_.var());
  if (pass.mode == Mode::train) {
    pass_.require_variance();
    running_.contribute(pass, pass_.count(), pass_.mean(), pass_.var(), pass_.unbiased_factor());
  }
}

BatchStatistics BatchNormLayer::statistics() const {
  const std::span<const double> mean = pass_.mean(), var = pass_.var();
  return {pass_.count(), {mean.begin(), mean.end()}, {var.begin(), var.end()}};
}

void BatchNormLayer::start_exchange_backward(const Pass& pass) {
  if (t_.dx || context_.state.norm().whole_world) pass_.start_backward(pass.step);
}

void BatchNormLayer::finish_exchange_backward(const Pass&) {
  if (t_.dx || context_.state.norm().whole_world) pass_.finish_backward();
}

void BatchNormLayer::backward(const Pass&, ops::Samples samples) {
  if (!t_.dx && !t_.dr) return;
  pass_.apply_backward(t_.x, t_.dy, t_.dx, t_.dr, samples, relu_, mask_.as<std::uint8_t>(), t_.accumulate_dx,
                       t_.accumulate_dr);
}

void BatchNormLayer::backward_parameters(const Pass&) {
  if (context_.state.norm().whole_world) {
    pass_.group_parameter_gradients(d_gamma_, d_beta_);
  } else {
    pass_.local_parameter_gradients(d_gamma_, d_beta_);
  }
  parameters_.add_gradients(d_gamma_, d_beta_);
}

}  // namespace syncbn
