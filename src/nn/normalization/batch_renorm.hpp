#pragma once

#include <span>

namespace syncbn {

// Batch renormalization (Ioffe 2017, arXiv 1702.03275, algorithm 1): y = gamma * (xhat * r + d) + beta, where xhat is
// normalized with the batch's mean and std, and r = std / running_std and d = (mean - running_mean) / running_std are
// clipped, and treated as constants in backward. Where nothing is clipped, y is the same as in evaluation.

struct RenormOptions {
  double r_max = 3;     ///< r in [1 / r_max, r_max]; >= 1
  double d_max = 5;     ///< d in [-d_max, d_max]; >= 0
  double start = 0.05;  ///< plain batch norm up to this fraction of the training
  double full = 0.25;   ///< fraction at which the limits, growing linearly, reach r_max and d_max
};

struct RenormLimits {
  double r_max = 1, d_max = 0;  ///< 1 and 0: plain batch norm
};

/// The limits at `progress`, the fraction of the training that is done, in [0, 1].
RenormLimits renorm_limits(const RenormOptions& options, double progress);

/// The running statistics that a batch's statistics are compared with. Per channel; running std = sqrt(running_var +
/// eps).
struct RenormReference {
  std::span<const float> running_mean, running_var;
  RenormLimits limits;
};

struct RenormCorrection {
  double r = 1, d = 0;
};
/// The correction of one channel, whose batch has this mean and std = sqrt(var + eps).
RenormCorrection renorm_correction(const RenormReference& reference, std::size_t channel, double mean, double std,
                                   double eps);

}  // namespace syncbn
