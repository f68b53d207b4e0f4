#pragma once

#include "nn/normalization/host_norm_layer.hpp"
#include "nn/normalization/whitening_pass.hpp"

namespace syncbn {

/// Decorrelated batch normalization in a network. Its running statistics are mean and covariance.
class WhiteningLayer : public HostNormLayer<WhiteningPass> {
 public:
  WhiteningLayer(const LayerContext& context, int index, const LayerTensors& tensors);

  void forward(const Pass&, ops::Samples samples) override { pass_.apply(t_.x, t_.y, samples); }
  void accumulate_backward(const Pass&, ops::Samples samples) override {
    pass_.accumulate_backward(t_.x, t_.dy, samples);
  }
  void backward(const Pass&, ops::Samples samples) override {
    if (t_.dx) pass_.apply_backward(t_.x, t_.dy, t_.dx, samples, t_.accumulate_dx);
  }
  BatchStatistics statistics() const override;

 private:
  void finish(const Pass&) override { pass_.finish(parameters_.gamma(), parameters_.beta()); }
  std::span<const double> moments() const override { return pass_.cov(); }
};

}  // namespace syncbn
