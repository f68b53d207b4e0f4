#pragma once

// Scalars that the update rules compute once per parameter or update, wherever its elements are updated.

#include <cmath>

#include "syncbn/optim/optimizer.hpp"

namespace syncbn {

/// A consecutive part of one parameter in the flat buffers.
struct Segment {
  std::int64_t offset = 0;
  std::int64_t count = 0;
  double weight_decay = 0;
  bool adapt = false;  ///< whether LARS and LAMB scale its update
};

/// Returns the segment of a whole parameter.
inline Segment segment_of(const ParameterSlot& slot, const OptimizerOptions& options) {
  const bool covered = !slot.norm_or_bias || options.decay_norm_and_bias;
  return {slot.offset, slot.count, covered ? options.weight_decay : 0.0, covered};
}

/// Divisors of the mean and of the root of the mean square in Adam and LAMB, whose averages start at 0.
struct BiasCorrection {
  double mean, root;
};
inline BiasCorrection bias_correction(const OptimizerOptions& options, std::int64_t updates) {
  const auto t = static_cast<double>(updates);
  return {1 - std::pow(options.beta1, t), std::sqrt(1 - std::pow(options.beta2, t))};
}

// Trust ratios. A parameter that is still all zero, or has a zero gradient, has none and takes the plain step.

inline double lars_ratio(const Segment& segment, double p_norm, double g_norm, const OptimizerOptions& options) {
  if (!segment.adapt || !(p_norm > 0 && g_norm > 0)) return 1;
  return options.trust_coefficient * p_norm / (g_norm + segment.weight_decay * p_norm + options.eps);
}

/// `u_norm`: norm of Adam's direction with the weight decay.
inline double lamb_ratio(const Segment& segment, double p_norm, double u_norm) {
  return segment.adapt && p_norm > 0 && u_norm > 0 ? p_norm / u_norm : 1;
}

}  // namespace syncbn
