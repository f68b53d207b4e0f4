#pragma once

#include <vector>

#include "nn/gamma_beta.hpp"
#include "nn/norm_layer.hpp"
#include "nn/running_statistics.hpp"
#include "nn/whitening_pass.hpp"

namespace syncbn {

/// Decorrelated batch normalization inside a network. Running statistics: mean and covariance.
class WhiteningLayer : public NormLayer {
 public:
  WhiteningLayer(const LayerContext& context, int index, const LayerTensors& tensors);

  void begin_update() override { running_.begin_update(); }
  bool uses_batch(const Pass& pass) const override { return running_.uses_batch(pass); }
  void begin(const Pass& pass) override;
  void accumulate(const Pass&, ops::Samples samples) override { pass_.accumulate(t_.x, samples); }
  void exchange(const Pass& pass) override;
  void forward(const Pass&, ops::Samples samples) override { pass_.apply(t_.x, t_.y, samples); }

  void begin_backward(const Pass&) override { pass_.begin_backward(); }
  void accumulate_backward(const Pass&, ops::Samples samples) override {
    pass_.accumulate_backward(t_.x, t_.dy, samples);
  }
  void start_exchange_backward(const Pass& pass) override {
    if (exchanges_) pass_.start_backward(pass.step);
  }
  void finish_exchange_backward(const Pass&) override {
    if (exchanges_) pass_.finish_backward();
  }
  void backward(const Pass&, ops::Samples samples) override {
    if (t_.dx) pass_.apply_backward(t_.x, t_.dy, t_.dx, samples, t_.accumulate_dx);
  }
  void backward_parameters(const Pass& pass) override;

  PopulationStatistics& population() override { return population_; }
  bool local_finite() const override { return pass_.local_finite(); }
  BatchStatistics statistics() const override;

 private:
  LayerTensors t_;
  GammaBeta parameters_;
  RunningStatistics running_;
  PopulationStatistics population_;
  WhiteningPass pass_;
  bool whole_world_, exchanges_;  // whether backward sends its message
  std::vector<double> d_gamma_, d_beta_;
};

}  // namespace syncbn
