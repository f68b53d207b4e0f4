#pragma once

#include <memory>

#include "nn/normalization/gamma_beta.hpp"

namespace syncbn {

/// A group, layer or instance normalization in a network (+ add, + ReLU in the same sweep).
class GroupNormLayer : public Layer {
 public:
  GroupNormLayer(const LayerContext& context, int index, const LayerTensors& tensors)
      : t_(tensors),
        parameters_(context, index),
        relu_(fused_relu(context.spec(index))),
        mask_(relu_mask(context, relu_, tensors.x)),
        norm_(context.backend.group_normalization(tensors.x.shape.c(), context.spec(index).groups,
                                                  context.state.norm().options.eps, context.max_samples)) {}

  void forward(const Pass&, ops::Samples samples) override {
    norm_->forward(t_.x, t_.r, t_.y, samples, parameters_.affine(), relu_, mask_.as<std::uint8_t>());
  }
  void backward(const Pass&, ops::Samples samples) override {
    norm_->backward(t_.x, t_.dy, t_.dx, t_.dr, samples, parameters_.affine(), relu_, mask_.as<std::uint8_t>(),
                    t_.accumulate_dx, t_.accumulate_dr);
  }
  void backward_parameters(const Pass& pass) override {
    norm_->add_parameter_gradients(pass.n, parameters_.d_weight(), parameters_.d_bias());
  }

 private:
  LayerTensors t_;
  LayerParameters parameters_;
  ops::FusedRelu relu_;
  ops::Memory mask_;
  std::unique_ptr<ops::GroupNormalization> norm_;
};

}  // namespace syncbn
