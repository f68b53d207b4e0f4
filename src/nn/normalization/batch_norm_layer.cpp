#include "nn/normalization/batch_norm_layer.hpp"

namespace syncbn {

BatchNormLayer::BatchNormLayer(const LayerContext& context, int index, const LayerTensors& tensors)
    : HostNormLayer(context, index, tensors, context.backend.batch_norm(), context.spec(index).name,
                    tensors.x.shape.c(), context.state.norm().options.eps, context.group),
      renorm_(context.state.norm().renorm),
      relu_(fused_relu(context.spec(index))),
      mask_(relu_mask(context, relu_, tensors.x)) {}

void BatchNormLayer::finish(const Pass& pass) {
  std::optional<RenormReference> reference;
  if (renorm_ && pass.mode == Mode::train)
    reference = RenormReference{running_.mean(), running_.var(), renorm_limits(*renorm_, pass.progress)};
  pass_.finish(parameters_.gamma(), parameters_.beta(), reference);
}

BatchStatistics BatchNormLayer::statistics() const {
  const std::span<const double> mean = pass_.mean(), var = pass_.var();
  return {pass_.count(), {mean.begin(), mean.end()}, {var.begin(), var.end()}};
}

void BatchNormLayer::backward(const Pass&, ops::Samples samples) {
  if (!t_.dx && !t_.dr) return;
  pass_.apply_backward(t_.x, t_.dy, t_.dx, t_.dr, samples, relu_, mask_.as<std::uint8_t>(), t_.accumulate_dx,
                       t_.accumulate_dr);
}

}  // namespace syncbn
