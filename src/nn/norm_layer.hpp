#pragma once

#include <vector>

#include "nn/batch_norm_pass.hpp"
#include "nn/layer.hpp"

namespace syncbn {

/// Batch normalization inside a network (+ add, + ReLU in the same sweep). Forward in training: accumulate() sample by
/// sample, exchange(), forward() sample by sample; backward likewise. Running statistics are not updated here: the
/// worker's gradient collects what this step contributes to them, and ModelState::update_statistics applies it, so that
/// they stay the same on all workers whatever the groups: running <- average over groups of (kept_g * running +
/// contribution_g).
class NormLayer : public Layer {
 public:
  NormLayer(const LayerContext& context, int index, const LayerTensors& tensors);

  /// Starts a new update: contributions are collected afresh. The gradient has been zeroed.
  void begin_update();
  /// Whether this pass normalizes with the batch's own statistics, that is, sends messages.
  bool uses_batch(const Pass& pass) const;
  void begin(const Pass& pass);
  void accumulate(const Pass& pass, ops::Samples samples);
  /// Collective over the group.
  void exchange(const Pass& pass);
  void forward(const Pass& pass, ops::Samples samples) override;

  void begin_backward(const Pass& pass);
  void accumulate_backward(const Pass& pass, ops::Samples samples);
  /// Two halves of the collective; the caller may compute in between.
  void start_exchange_backward(const Pass& pass);
  void finish_exchange_backward(const Pass& pass);
  void backward(const Pass& pass, ops::Samples samples) override;
  /// Adds d(gamma), d(beta) to the gradient; after finish_exchange_backward().
  void backward_parameters(const Pass& pass) override;
  bool has_parameters() const override { return true; }

  /// Whether this worker's own partial sums of the last training forward were all finite numbers.
  bool local_finite() const { return pass_.local_finite(); }

 private:
  void contribute_statistics();
  std::span<const float> values_of(int parameter) const;

  LayerContext context_;
  LayerTensors t_;
  int index_;
  NormState* norm_state_;
  bool speaks_;
  ops::FusedRelu relu_;
  BatchNormPass pass_;
  std::vector<std::uint8_t> mask_;
  std::vector<double> d_weight_, d_bias_;
  std::int64_t batches_this_update_ = 0;
};

}  // namespace syncbn
