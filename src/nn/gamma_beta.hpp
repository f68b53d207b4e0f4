#pragma once

#include <span>
#include <vector>

#include "nn/layer.hpp"

namespace syncbn {

/// The learned scale and shift of a normalization layer, and where their gradients are collected. Spans are empty
/// without affine parameters.
class GammaBeta {
 public:
  GammaBeta(const LayerContext& context, int layer)
      : context_(context), gamma_(context.state.weight_of(layer)), beta_(context.state.bias_of(layer)) {}

  std::span<const float> gamma() const { return values(gamma_); }
  std::span<const float> beta() const { return values(beta_); }
  void add_gradients(std::span<const double> d_gamma, std::span<const double> d_beta) {
    add(gamma_, d_gamma);
    add(beta_, d_beta);
  }

 private:
  std::span<const float> values(int parameter) const {
    if (parameter < 0) return {};
    return context_.state.values(context_.state.parameter(parameter));
  }
  void add(int parameter, std::span<const double> values) {
    if (parameter < 0) return;
    float* out = context_.gradient.data() + context_.state.parameter(parameter).offset;
    for (std::size_t c = 0; c < values.size(); ++c) out[c] += static_cast<float>(values[c]);
  }

  LayerContext context_;
  int gamma_, beta_;
};

/// The ReLU inside a normalization layer's sweep: with an addition before it, its mask cannot be found again from x.
inline ops::FusedRelu fused_relu(const LayerSpec& spec) {
  if (!spec.fused_relu) return ops::FusedRelu::none;
  return spec.residual >= 0 ? ops::FusedRelu::bits : ops::FusedRelu::recompute;
}

/// Room for the mask of `max_samples` samples, if one is needed.
inline ops::Memory relu_mask(const LayerContext& context, ops::FusedRelu relu, const Tensor& x) {
  if (relu != ops::FusedRelu::bits) return {};
  return context.backend.allocate(
      static_cast<std::size_t>(context.backend.batch_norm().mask_bytes_per_sample(x) * context.max_samples));
}

}  // namespace syncbn
