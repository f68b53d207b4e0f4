#include "nn/norm_layer.hpp"

#include "nn/batch_norm_layer.hpp"
#include "nn/whitening_layer.hpp"

namespace syncbn {

std::unique_ptr<NormLayer> make_norm_layer(const LayerContext& context, int index, const LayerTensors& tensors) {
  if (context.spec(index).type == LayerType::whitening) {
    return std::make_unique<WhiteningLayer>(context, index, tensors);
  }
  return std::make_unique<BatchNormLayer>(context, index, tensors);
}

}  // namespace syncbn
