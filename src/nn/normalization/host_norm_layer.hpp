#pragma once

#include <utility>
#include <vector>

#include "nn/normalization/gamma_beta.hpp"
#include "nn/normalization/norm_layer.hpp"
#include "nn/normalization/running_statistics.hpp"

namespace syncbn {

/// A normalization by batch statistics on the CPU: the layer around a BatchPass (BatchNormPass, WhiteningPass).
template <class BatchPass>
class HostNormLayer : public NormLayer {
 public:
  void begin_update() override {
    running_.begin_update();
    pass_.begin_update();
  }
  bool uses_batch(const Pass& pass) const override { return running_.uses_batch(pass); }
  void begin(const Pass& pass) override {
    if (uses_batch(pass)) {
      pass_.begin();
    } else if (pass.statistics == Statistics::precise) {
      pass_.use_statistics(population_.mean(), population_.moments(), parameters_.gamma(), parameters_.beta());
    } else {
      pass_.use_statistics(running_.mean(), running_.var(), parameters_.gamma(), parameters_.beta());
    }
  }
  void accumulate(const Pass&, ops::Samples samples) override { pass_.accumulate(t_.x, samples); }
  void exchange(const Pass& pass) override {
    pass_.start(pass.step);
    finish(pass);
    if (pass.population) population_.add(pass_.count(), pass_.mean(), moments());
    if (pass.mode != Mode::train) return;
    pass_.require_variance();
    running_.contribute(pass, pass_.count(), pass_.mean(), moments(), pass_.unbiased_factor());
  }

  bool repeats() const override { return false; }
  void begin_backward(const Pass&) override { pass_.begin_backward(); }
  void start_exchange_backward(const Pass& pass) override {
    if (exchanges_) pass_.start_backward(pass.step);
  }
  void finish_exchange_backward(const Pass&) override {
    if (exchanges_) pass_.finish_backward();
  }
  void backward_parameters(const Pass&) override {
    pass_.parameter_gradients(whole_world_, d_gamma_, d_beta_);
    parameters_.add_gradients(d_gamma_, d_beta_);
  }

  PopulationStatistics& population() override { return population_; }
  bool local_finite() const override { return pass_.local_finite(); }

 protected:
  /// `arguments`: those of the pass.
  template <class... Arguments>
  HostNormLayer(const LayerContext& context, int index, const LayerTensors& tensors, Arguments&&... arguments)
      : t_(tensors),
        parameters_(context, index),
        running_(context, index),
        population_(context, index),
        pass_(std::forward<Arguments>(arguments)...),
        whole_world_(context.state.norm().whole_world),
        exchanges_(tensors.dx || whole_world_),
        d_gamma_(static_cast<std::size_t>(tensors.x.shape.c())),
        d_beta_(d_gamma_.size()) {}

  /// Calls the pass's finish().
  virtual void finish(const Pass& pass) = 0;
  /// The batch's second moments, kept in the running statistics beside the mean.
  virtual std::span<const double> moments() const = 0;

  LayerTensors t_;
  GammaBeta parameters_;
  RunningStatistics running_;
  PopulationStatistics population_;
  BatchPass pass_;

 private:
  bool whole_world_, exchanges_;  // whether backward sends its message
  std::vector<double> d_gamma_, d_beta_;
};

}  // namespace syncbn
