#pragma once

#include "nn/layer.hpp"

namespace syncbn {

/// The places of a layer's weight and bias (gamma and beta, in a normalization) and of their gradients in the kernels'
/// memory; null for those that the layer does not have.
class LayerParameters {
 public:
  LayerParameters(const LayerContext& context, int layer)
      : context_(context), weight_(context.state.weight_of(layer)), bias_(context.state.bias_of(layer)) {}

  const float* weight() const { return value(weight_); }
  const float* bias() const { return value(bias_); }
  float* d_weight() const { return gradient(weight_); }
  float* d_bias() const { return gradient(bias_); }
  ops::Affine affine() const { return {weight(), bias()}; }

 private:
  const float* value(int p) const {
    return p < 0 ? nullptr : context_.state.kernels(context_.state.parameter(p)).data();
  }
  float* gradient(int p) const {
    return p < 0 ? nullptr : context_.gradient.data() + context_.state.parameter(p).offset;
  }

  LayerContext context_;
  int weight_, bias_;
};

}  // namespace syncbn
