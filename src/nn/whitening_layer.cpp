#include "nn/whitening_layer.hpp"

namespace syncbn {

WhiteningLayer::WhiteningLayer(const LayerContext& context, int index, const LayerTensors& tensors)
    : t_(tensors),
      parameters_(context, index),
      running_(context, index),
      population_(context, index),
      pass_(context.backend, context.spec(index).name, tensors.x.shape.c(),
            tensors.x.shape.c() / context.spec(index).groups, context.state.norm().options.eps, context.group),
      whole_world_(context.state.norm().whole_world),
      exchanges_(tensors.dx || whole_world_),
      d_gamma_(static_cast<std::size_t>(tensors.x.shape.c())),
      d_beta_(d_gamma_.size()) {}

void WhiteningLayer::begin(const Pass& pass) {
  if (uses_batch(pass)) {
    pass_.begin();
  } else if (pass.statistics == Statistics::precise) {
    pass_.use_statistics(population_.mean(), population_.moments(), parameters_.gamma(), parameters_.beta());
  } else {
    pass_.use_statistics(running_.mean(), running_.var(), parameters_.gamma(), parameters_.beta());
  }
}

void WhiteningLayer::exchange(const Pass& pass) {
  pass_.start(pass.step);
  pass_.finish(parameters_.gamma(), parameters_.beta());
  if (pass.population) population_.add(pass_.count(), pass_.mean(), pass_.cov());
  if (pass.mode == Mode::train) {
    pass_.require_variance();
    running_.contribute(pass, pass_.count(), pass_.mean(), pass_.cov(), pass_.unbiased_factor());
  }
}

BatchStatistics WhiteningLayer::statistics() const {
  const std::span<const double> mean = pass_.mean(), cov = pass_.cov();
  BatchStatistics result{pass_.count(), {mean.begin(), mean.end()}, std::vector<double>(mean.size())};
  const std::size_t width = cov.size() / mean.size();
  for (std::size_t c = 0; c < mean.size(); ++c) result.var[c] = cov[c * width + c % width];
  return result;
}

void WhiteningLayer::backward_parameters(const Pass&) {
  if (whole_world_) {
    pass_.group_parameter_gradients(d_gamma_, d_beta_);
  } else {
    pass_.local_parameter_gradients(d_gamma_, d_beta_);
  }
  parameters_.add_gradients(d_gamma_, d_beta_);
}

}  // namespace syncbn
