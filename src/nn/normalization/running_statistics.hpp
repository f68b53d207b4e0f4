#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "nn/layer.hpp"
#include "ops/device.hpp"

namespace syncbn {

/// The contribution of one worker's normalization layer to the running statistics. They are not updated here: the
/// worker's gradient collects this step's contributions and ModelState::update_statistics applies them, so that they
/// are the same on all workers for any groups: running <- average over groups of (kept_g * running + contribution_g).
class RunningStatistics {
 public:
  RunningStatistics(const LayerContext& context, int layer);

  /// Whether a pass normalizes with the batch's own statistics.
  bool uses_batch(const Pass& pass) const {
    return pass.mode == Mode::train || pass.statistics == Statistics::batch ||
           (pass.statistics == Statistics::running && !state_);
  }
  /// Whether every update of one pass treats its batch alike.
  bool repeats() const { return !context_.state.norm().options.cumulative; }
  /// The running statistics in CPU memory; on a device these calls wait for it.
  std::span<const float> mean() const { return readable(context_.backend, place(state_->mean), mean_copy_); }
  std::span<const float> var() const { return readable(context_.backend, place(state_->var), var_copy_); }
  /// Their places in the kernels' memory.
  const float* mean_place() const { return place(state_->mean).data(); }
  const float* var_place() const { return place(state_->var).data(); }

  /// Starts a new update; the gradient has been zeroed.
  void begin_update();
  /// Adds the statistics of a batch of `count` values; `unbiased` is the factor of the variance.
  void contribute(const Pass& pass, std::int64_t count, std::span<const double> mean, std::span<const double> var,
                  double unbiased);
  /// The same on a device that holds the statistics.
  void contribute(const Pass& pass, std::int64_t count, ops::Normalization& statistics);

 private:
  /// The momentum of a batch, and the factor with which its statistics are added.
  struct Share {
    double momentum, share;
  };
  std::span<const float> place(FlatRange range) const { return context_.state.kernels(range); }
  double momentum(const Pass& pass) const;
  /// Counts a batch; returns nothing if it contributes nothing.
  std::optional<Share> next(const Pass& pass, std::int64_t count);

  LayerContext context_;
  NormState* state_;
  bool speaks_;
  std::int64_t batches_this_update_ = 0;
  float kept_ = 0;  // factor of the old running statistics
  mutable std::vector<float> mean_copy_, var_copy_;
};

}  // namespace syncbn
