#pragma once

#include <cstdint>
#include <span>

#include "syncbn/core/tensor.hpp"

namespace syncbn {

struct LossResult {
  double loss_sum = 0;  ///< summed over the samples
  std::int64_t correct = 0;
};

/// Softmax cross-entropy with label smoothing (Szegedy et al. 2016: target 1 - s + s/K, others s/K) of logits [n, K].
/// If d_logits is present it receives the gradient of loss_sum * scale; with scale = 1 / (global batch) the workers'
/// gradients add up to that of the mean over the global batch, even if its samples are unevenly distributed. A NaN
/// logit gives a NaN loss and counts as wrong.
LossResult softmax_cross_entropy(const Tensor& logits, std::span<const int> labels, double smoothing, double scale,
                                 const Tensor& d_logits);

}  // namespace syncbn
