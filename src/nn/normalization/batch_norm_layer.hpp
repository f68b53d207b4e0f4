#pragma once

#include "nn/normalization/batch_norm_pass.hpp"
#include "nn/normalization/host_norm_layer.hpp"

namespace syncbn {

/// Batch normalization in a network (+ add, + ReLU in the same sweep).
class BatchNormLayer : public HostNormLayer<BatchNormPass> {
 public:
  BatchNormLayer(const LayerContext& context, int index, const LayerTensors& tensors);

  void forward(const Pass&, ops::Samples samples) override {
    pass_.apply(t_.x, t_.r, t_.y, samples, relu_, mask_.as<std::uint8_t>());
  }
  void accumulate_backward(const Pass&, ops::Samples samples) override {
    pass_.accumulate_backward(t_.x, t_.dy, samples, relu_, mask_.as<std::uint8_t>());
  }
  void backward(const Pass& pass, ops::Samples samples) override;
  BatchStatistics statistics() const override;

 private:
  void finish(const Pass& pass) override;
  std::span<const double> moments() const override { return pass_.var(); }

  std::optional<RenormOptions> renorm_;
  ops::FusedRelu relu_;
  ops::Memory mask_;
};

}  // namespace syncbn
