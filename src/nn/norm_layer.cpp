#include "nn/norm_layer.hpp"

#include <algorithm>

namespace syncbn {

namespace {

const LayerSpec& spec_of(const LayerContext& context, int index) {
  return context.state.model().layers[static_cast<std::size_t>(index)];
}

}  // namespace

NormLayer::NormLayer(const LayerContext& context, int index, const LayerTensors& tensors)
    : context_(context),
      t_(tensors),
      index_(index),
      norm_state_(context.state.norm_state(index)),
      // One worker speaks for its group, so that the sum over workers is the average over groups. What is not
      // summed, because there is just one group, every worker keeps.
      speaks_(context.state.norm().whole_world || context.group.rank() == 0),
      relu_(!spec_of(context, index).fused_relu ? ops::FusedRelu::none
            : tensors.r                         ? ops::FusedRelu::bits
                                                : ops::FusedRelu::recompute),
      pass_(context.backend.batch_norm(), spec_of(context, index).name, spec_of(context, index).output.c(),
            context.state.norm().options.eps, context.group) {
  const auto channels = static_cast<std::size_t>(spec_of(context, index).output.c());
  d_weight_.resize(channels);
  d_bias_.resize(channels);
  if (relu_ == ops::FusedRelu::bits) {
    mask_.resize(
        static_cast<std::size_t>(context.backend.batch_norm().mask_bytes_per_sample(t_.x) * context.max_samples));
  }
}

std::span<const float> NormLayer::values_of(int parameter) const {
  if (parameter < 0) return {};
  return context_.state.values(context_.state.parameter(parameter));
}

bool NormLayer::uses_batch(const Pass& pass) const {
  return pass.mode == Mode::train || !norm_state_;
}

void NormLayer::begin_update() {
  batches_this_update_ = 0;
  if (!norm_state_) return;
  context_.gradient[static_cast<std::size_t>(norm_state_->kept.offset)] =
      speaks_ ? 1.0f / static_cast<float>(context_.groups) : 0.0f;
}

void NormLayer::begin(const Pass& pass) {
  if (uses_batch(pass)) {
    pass_.begin();
  } else {
    pass_.use_statistics(context_.state.values(norm_state_->mean), context_.state.values(norm_state_->var),
                         values_of(context_.state.weight_of(index_)), values_of(context_.state.bias_of(index_)));
  }
}

void NormLayer::accumulate(const Pass&, ops::Samples samples) {
  pass_.accumulate(t_.x, samples);
}

void NormLayer::exchange(const Pass& pass) {
  pass_.start(pass.step);
  pass_.finish(values_of(context_.state.weight_of(index_)), values_of(context_.state.bias_of(index_)));
  if (pass.mode == Mode::train) contribute_statistics();
}

void NormLayer::contribute_statistics() {
  if (!norm_state_) return;
  ++batches_this_update_;
  if (pass_.count() == 0 || !speaks_) return;
  const BatchNormOptions& options = context_.state.norm().options;
  const double momentum = options.cumulative
                              ? 1.0 / static_cast<double>(norm_state_->batches_tracked + batches_this_update_)
                              : options.momentum;
  const double share = momentum / context_.groups;
  float& kept = context_.gradient[static_cast<std::size_t>(norm_state_->kept.offset)];
  kept = static_cast<float>(kept * (1 - momentum));
  const auto fold = [&](FlatRange range, std::span<const double> value, double factor) {
    float* out = context_.gradient.data() + range.offset;
    for (std::size_t c = 0; c < value.size(); ++c) {
      out[c] = static_cast<float>((1 - momentum) * out[c] + share * factor * value[c]);
    }
  };
  fold(norm_state_->mean, pass_.mean(), 1);
  fold(norm_state_->var, pass_.var(), pass_.unbiased_factor());
}

void NormLayer::forward(const Pass&, ops::Samples samples) {
  pass_.apply(t_.x, t_.r, t_.y, samples, relu_, mask_.data());
}

void NormLayer::begin_backward(const Pass&) {
  pass_.begin_backward();
}

void NormLayer::accumulate_backward(const Pass&, ops::Samples samples) {
  pass_.accumulate_backward(t_.x, t_.dy, samples, relu_, mask_.data());
}

void NormLayer::start_exchange_backward(const Pass& pass) {
  if (t_.dx || context_.state.norm().whole_world) pass_.start_backward(pass.step);
}

void NormLayer::finish_exchange_backward(const Pass&) {
  if (t_.dx || context_.state.norm().whole_world) pass_.finish_backward();
}

void NormLayer::backward(const Pass&, ops::Samples samples) {
  if (!t_.dx && !t_.dr) return;
  pass_.apply_backward(t_.x, t_.dy, t_.dx, t_.dr, samples, relu_, mask_.data(), t_.accumulate_dx, t_.accumulate_dr);
}

void NormLayer::backward_parameters(const Pass&) {
  if (context_.state.norm().whole_world) {
    pass_.group_parameter_gradients(d_weight_, d_bias_);
  } else {
    pass_.local_parameter_gradients(d_weight_, d_bias_);
  }
  const auto add = [&](int parameter, const std::vector<double>& values) {
    if (parameter < 0) return;
    float* out = context_.gradient.data() + context_.state.parameter(parameter).offset;
    for (std::size_t c = 0; c < values.size(); ++c) out[c] += static_cast<float>(values[c]);
  };
  add(context_.state.weight_of(index_), d_weight_);
  add(context_.state.bias_of(index_), d_bias_);
}

}  // namespace syncbn
