#include "nn/normalization/batch_renorm.hpp"

#include <algorithm>
#include <cmath>

namespace syncbn {

RenormLimits renorm_limits(const RenormOptions& options, double progress) {
  if (progress < options.start) return {};
  const double share = progress >= options.full ? 1 : (progress - options.start) / (options.full - options.start);
  return {1 + share * (options.r_max - 1), share * options.d_max};
}

RenormCorrection renorm_correction(const RenormReference& reference, std::size_t channel, double mean, double std,
                                   double eps) {
  const auto [r_max, d_max] = reference.limits;
  const double running_mean = static_cast<double>(reference.running_mean[channel]);
  const double running_std = std::sqrt(static_cast<double>(reference.running_var[channel]) + eps);
  return {std::clamp(std / running_std, 1 / r_max, r_max),
          std::clamp((mean - running_mean) / running_std, -d_max, d_max)};
}

}  // namespace syncbn
