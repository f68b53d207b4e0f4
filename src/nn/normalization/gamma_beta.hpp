#pragma once

#include <span>
#include <vector>

#include "nn/layer_parameters.hpp"
#include "ops/device.hpp"

namespace syncbn {

/// Gamma and beta, [C] each, and their gradients, for normalizations whose maps are computed on the CPU, wherever the
/// parameters lie.
class GammaBeta {
 public:
  GammaBeta(const LayerContext& context, int layer)
      : backend_(context.backend), places_(context, layer), channels_(context.spec(layer).output.c()) {}

  /// These are empty without affine parameters. On a device they wait for it.
  std::span<const float> gamma() const { return values(places_.weight(), gamma_copy_); }
  std::span<const float> beta() const { return values(places_.bias(), beta_copy_); }
  void add_gradients(std::span<const double> d_gamma, std::span<const double> d_beta) const {
    add(d_gamma, places_.d_weight());
    add(d_beta, places_.d_bias());
  }

 private:
  std::span<const float> values(const float* place, std::vector<float>& copy) const {
    if (!place) return {};
    return readable(backend_, std::span(place, static_cast<std::size_t>(channels_)), copy);
  }
  void add(std::span<const double> values, float* gradient) const {
    if (!gradient) return;
    if (const ops::Device* device = backend_.device()) return device->blend(values, 1, 1, gradient);
    for (std::size_t c = 0; c < values.size(); ++c) gradient[c] += static_cast<float>(values[c]);
  }

  const ops::Backend& backend_;
  LayerParameters places_;
  std::int64_t channels_;
  mutable std::vector<float> gamma_copy_, beta_copy_;
};

/// How the ReLU of a normalization layer is fused: with an addition before it, its mask cannot be recomputed from x.
inline ops::FusedRelu fused_relu(const LayerSpec& spec) {
  if (!spec.fused_relu) return ops::FusedRelu::none;
  return spec.residual >= 0 ? ops::FusedRelu::bits : ops::FusedRelu::recompute;
}

/// Allocates the mask of `max_samples` samples, if one is needed.
inline ops::Memory relu_mask(const LayerContext& context, ops::FusedRelu relu, const Tensor& x) {
  if (relu != ops::FusedRelu::bits) return {};
  return context.backend.allocate(
      static_cast<std::size_t>(context.backend.batch_norm().mask_bytes_per_sample(x) * context.max_samples));
}

}  // namespace syncbn
