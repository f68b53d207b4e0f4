#include "nn/normalization/norm_layer.hpp"

#include <algorithm>

#include "nn/normalization/batch_norm_layer.hpp"
#include "nn/normalization/device_batch_norm_layer.hpp"
#include "nn/normalization/whitening_layer.hpp"

namespace syncbn {

std::int64_t longest_message(const Model& model) {
  std::int64_t channels = 0;
  for (const LayerSpec& spec : model.layers)
    if (shares_statistics(spec.type)) channels = std::max(channels, spec.output.c());
  return 1 + 2 * channels;
}

std::unique_ptr<NormLayer> make_norm_layer(const LayerContext& context, int index, const LayerTensors& tensors) {
  if (context.spec(index).type == LayerType::whitening) {
    return std::make_unique<WhiteningLayer>(context, index, tensors);
  }
  // Batch renormalization computes its maps on the CPU.
  if (context.backend.device() && !context.state.norm().renorm) {
    return std::make_unique<DeviceBatchNormLayer>(context, index, tensors);
  }
  return std::make_unique<BatchNormLayer>(context, index, tensors);
}

}  // namespace syncbn
