#pragma once

#include <memory>

#include "nn/normalization/gamma_beta.hpp"

namespace syncbn {

/// GroupNormLayer on a device with memory of its own.
class DeviceGroupNormLayer : public Layer {
 public:
  DeviceGroupNormLayer(const LayerContext& context, int index, const LayerTensors& tensors)
      : t_(tensors),
        parameters_(context, index),
        relu_(fused_relu(context.spec(index))),
        mask_(relu_mask(context, relu_, tensors.x)),
        norm_(context.backend.device()->group_normalization(tensors.x.shape.c(), context.spec(index).groups,
                                                            context.state.norm().options.eps, context.max_samples)) {}

  void forward(const Pass&, ops::Samples samples) override {
    norm_->forward(t_.x, t_.r, t_.y, samples.count(), relu_, mask_.as<std::uint8_t>(), affine());
  }
  void backward(const Pass&, ops::Samples samples) override {
    norm_->backward(t_.x, t_.dy, t_.dx, t_.dr, samples.count(), relu_, mask_.as<std::uint8_t>(), affine(),
                    t_.accumulate_dx, t_.accumulate_dr);
  }
  void backward_parameters(const Pass& pass) override {
    norm_->add_parameter_gradients(pass.n, parameters_.gamma_gradient_place(), parameters_.beta_gradient_place());
  }

 private:
  ops::Affine affine() const { return {parameters_.gamma_place(), parameters_.beta_place()}; }

  LayerTensors t_;
  GammaBeta parameters_;
  ops::FusedRelu relu_;
  ops::Memory mask_;
  std::unique_ptr<ops::GroupNormalization> norm_;
};

}  // namespace syncbn
