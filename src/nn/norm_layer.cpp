#include "nn/norm_layer.hpp"

#include "nn/batch_norm_layer.hpp"
#include "nn/device_batch_norm_layer.hpp"
#include "nn/whitening_layer.hpp"

namespace syncbn {

std::unique_ptr<NormLayer> make_norm_layer(const LayerContext& context, int index, const LayerTensors& tensors) {
  if (context.spec(index).type == LayerType::whitening) {
    return std::make_unique<WhiteningLayer>(context, index, tensors);
  }
  // Batch renormalization derives its maps on the processor.
  if (context.backend.device() && !context.state.norm().renorm) {
    return std::make_unique<DeviceBatchNormLayer>(context, index, tensors);
  }
  return std::make_unique<BatchNormLayer>(context, index, tensors);
}

}  // namespace syncbn
