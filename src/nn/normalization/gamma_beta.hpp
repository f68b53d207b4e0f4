#pragma once

#include <span>
#include <vector>

#include "nn/layer.hpp"
#include "ops/device.hpp"

namespace syncbn {

/// The learned scale and shift of a normalization layer, and where their gradients are collected. Spans are empty
/// without affine parameters.
class GammaBeta {
 public:
  GammaBeta(const LayerContext& context, int layer)
      : context_(context), gamma_(context.state.weight_of(layer)), beta_(context.state.bias_of(layer)) {}

  /// The processor's; on a device these wait for it.
  std::span<const float> gamma() const { return values(gamma_, gamma_copy_); }
  std::span<const float> beta() const { return values(beta_, beta_copy_); }
  void add_gradients(std::span<const double> d_gamma, std::span<const double> d_beta) {
    add(gamma_, d_gamma);
    add(beta_, d_beta);
  }

  // ---- where they lie in the kernels' memory; null without affine parameters ----
  const float* gamma_place() const { return place(gamma_); }
  const float* beta_place() const { return place(beta_); }
  float* gamma_gradient_place() const { return gradient_place(gamma_); }
  float* beta_gradient_place() const { return gradient_place(beta_); }

 private:
  const float* place(int parameter) const {
    return parameter < 0 ? nullptr : context_.state.kernels(context_.state.parameter(parameter)).data();
  }
  float* gradient_place(int parameter) const {
    return parameter < 0 ? nullptr : context_.gradient.data() + context_.state.parameter(parameter).offset;
  }
  std::span<const float> values(int parameter, std::vector<float>& copy) const {
    if (parameter < 0) return {};
    return readable(context_.backend, context_.state.kernels(context_.state.parameter(parameter)), copy);
  }
  void add(int parameter, std::span<const double> values) {
    if (parameter < 0) return;
    float* out = gradient_place(parameter);
    if (const ops::Device* device = context_.backend.device()) return device->blend(values, 1, 1, out);
    for (std::size_t c = 0; c < values.size(); ++c) out[c] += static_cast<float>(values[c]);
  }

  LayerContext context_;
  int gamma_, beta_;
  mutable std::vector<float> gamma_copy_, beta_copy_;
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
