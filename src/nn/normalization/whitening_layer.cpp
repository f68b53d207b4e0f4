#include "nn/normalization/whitening_layer.hpp"

namespace syncbn {

WhiteningLayer::WhiteningLayer(const LayerContext& context, int index, const LayerTensors& tensors)
    : HostNormLayer(context, index, tensors, context.backend, context.spec(index).name, tensors.x.shape.c(),
                    tensors.x.shape.c() / context.spec(index).groups, context.state.norm().options.eps, context.group) {
}

BatchStatistics WhiteningLayer::statistics() const {
  const std::span<const double> mean = pass_.mean(), cov = pass_.cov();
  BatchStatistics result{pass_.count(), {mean.begin(), mean.end()}, std::vector<double>(mean.size())};
  const std::size_t width = cov.size() / mean.size();
  for (std::size_t c = 0; c < mean.size(); ++c) result.var[c] = cov[c * width + c % width];
  return result;
}

}  // namespace syncbn
