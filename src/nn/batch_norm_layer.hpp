#pragma once

#include <vector>

#include "nn/batch_norm_pass.hpp"
#include "nn/gamma_beta.hpp"
#include "nn/norm_layer.hpp"
#include "nn/running_statistics.hpp"

namespace syncbn {

/// Batch normalization inside a network (+ add, + ReLU in the same sweep).
class BatchNormLayer : public NormLayer {
 public:
  BatchNormLayer(const LayerContext& context, int index, const LayerTensors& tensors);

  void begin_update() override { running_.begin_update(); }
  bool uses_batch(const Pass& pass) const override { return running_.uses_batch(pass); }
  void begin(const Pass& pass) override;
  void accumulate(const Pass&, ops::Samples samples) override { pass_.accumulate(t_.x, samples); }
  void exchange(const Pass& pass) override;
  void forward(const Pass&, ops::Samples samples) override {
    pass_.apply(t_.x, t_.r, t_.y, samples, relu_, mask_.as<std::uint8_t>());
  }

  void begin_backward(const Pass&) override { pass_.begin_backward(); }
  void accumulate_backward(const Pass&, ops::Samples samples) override {
    pass_.accumulate_backward(t_.x, t_.dy, samples, relu_, mask_.as<std::uint8_t>());
  }
  void start_exchange_backward(const Pass& pass) override;
  void finish_exchange_backward(const Pass& pass) override;
  void backward(const Pass& pass, ops::Samples samples) override;
  void backward_parameters(const Pass& pass) override;

  PopulationStatistics& population() override { return population_; }
  bool local_finite() const override { return pass_.local_finite(); }
  BatchStatistics statistics() const override;

 private:
  LayerContext context_;
  LayerTensors t_;
  GammaBeta parameters_;
  RunningStatistics running_;
  PopulationStatistics population_;
  ops::FusedRelu relu_;
  ops::Memory mask_;
  BatchNormPass pass_;
  std::vector<double> d_gamma_, d_beta_;
};

}  // namespace syncbn
