#include <algorithm>

#include "nn/models/builder.hpp"

namespace syncbn {
namespace {

std::vector<int> count_readers(const std::vector<LayerSpec>& layers) {
  std::vector<int> readers(layers.size(), 0);
  for (const LayerSpec& l : layers) {
    if (l.input >= 0) ++readers[l.input];
    if (l.residual >= 0) ++readers[l.residual];
  }
  return readers;
}

/// Whether `layer`, the only reader of `norm`, can be fused into it; `other` is the other term of a sum. It must not be
/// the norm's own input: one sweep would write both of its gradients to the same place.
bool fits(const LayerSpec& layer, const LayerSpec& norm, int other) {
  if (!is_norm(norm.type) || norm.type == LayerType::whitening || norm.fused_relu) return false;
  return layer.type == LayerType::relu || (layer.type == LayerType::add && norm.residual < 0 && other != norm.input);
}

}  // namespace

void fuse_norms(Model& model) {
  const std::vector<int> readers = count_readers(model.layers);
  std::vector<int> moved(model.layers.size());  // old index -> index in `fused`
  std::vector<LayerSpec> fused;
  std::vector<int> fused_readers;  // readers of the fused layer's output
  const auto new_index = [&moved](int old) { return old < 0 ? old : moved[old]; };

  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    LayerSpec layer = model.layers[i];
    layer.input = new_index(layer.input);
    layer.residual = new_index(layer.residual);
    // Fuse into the later term of a sum: the other term exists when it is computed.
    const int at = std::max(layer.input, layer.residual);
    const auto before = static_cast<std::size_t>(std::max(at, 0));
    if (at >= 0 && fused_readers[before] == 1 && fits(layer, fused[before], std::min(layer.input, layer.residual))) {
      if (layer.type == LayerType::relu) fused[before].fused_relu = true;
      if (layer.type == LayerType::add) fused[before].residual = std::min(layer.input, layer.residual);
      fused_readers[before] = readers[i];
      moved[i] = at;
    } else {
      moved[i] = static_cast<int>(fused.size());
      fused.push_back(std::move(layer));
      fused_readers.push_back(readers[i]);
    }
  }
  model.layers = std::move(fused);
  for (ParameterSpec& p : model.parameters) p.layer = moved[p.layer];
}

}  // namespace syncbn
