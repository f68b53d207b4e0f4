#pragma once

#include <cstdint>
#include <span>

#include "nn/layer.hpp"

namespace syncbn {

/// What one worker's normalization layer contributes to the running statistics. They are not updated here: the worker's
/// gradient collects what this step contributes, and ModelState::update_statistics applies it, so that they stay the
/// same on all workers whatever the groups: running <- average over groups of (kept_g * running + contribution_g).
class RunningStatistics {
 public:
  RunningStatistics(const LayerContext& context, int layer);

  bool tracked() const { return state_ != nullptr; }
  std::span<const float> mean() const { return context_.state.values(state_->mean); }
  std::span<const float> var() const { return context_.state.values(state_->var); }

  /// Starts a new update; the gradient has been zeroed.
  void begin_update();
  /// Folds the statistics of a batch of `count` values in; `unbiased` is the factor of the variance.
  void contribute(const Pass& pass, std::int64_t count, std::span<const double> mean, std::span<const double> var,
                  double unbiased);

 private:
  double momentum(const Pass& pass) const;

  LayerContext context_;
  NormState* state_;
  bool speaks_;
  std::int64_t batches_this_update_ = 0;
};

}  // namespace syncbn
