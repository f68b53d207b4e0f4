#pragma once

#include <vector>

#include "nn/normalization/gamma_beta.hpp"
#include "nn/normalization/group_norm_pass.hpp"

namespace syncbn {

/// Group, layer or instance normalization inside a network (+ add, + ReLU in the same sweep).
class GroupNormLayer : public Layer {
 public:
  GroupNormLayer(const LayerContext& context, int index, const LayerTensors& tensors)
      : t_(tensors),
        parameters_(context, index),
        relu_(fused_relu(context.spec(index))),
        mask_(relu_mask(context, relu_, tensors.x)),
        pass_(context.backend.batch_norm(), tensors.x.shape.c(), context.spec(index).groups,
              context.state.norm().options.eps, context.max_samples) {}

  void forward(const Pass&, ops::Samples samples) override {
    pass_.forward(t_.x, t_.r, t_.y, samples, parameters_.gamma(), parameters_.beta(), relu_, mask_.as<std::uint8_t>());
  }
  void begin_backward(const Pass&) override { pass_.begin_backward(); }
  void backward(const Pass&, ops::Samples samples) override {
    pass_.backward(t_.x, t_.dy, t_.dx, t_.dr, samples, parameters_.gamma(), parameters_.beta(), relu_,
                   mask_.as<std::uint8_t>(), t_.accumulate_dx, t_.accumulate_dr);
  }
  void backward_parameters(const Pass&) override { parameters_.add_gradients(pass_.d_gamma(), pass_.d_beta()); }

 private:
  LayerTensors t_;
  GammaBeta parameters_;
  ops::FusedRelu relu_;
  ops::Memory mask_;
  GroupNormPass pass_;
};

}  // namespace syncbn
