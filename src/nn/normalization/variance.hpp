#pragma once

#include <limits>

namespace syncbn {

/// Relative rounding error of the two f64 sums whose difference is a variance, with a margin for the additions of a
/// deep tree.
constexpr double kVarianceRounding = 8 * std::numeric_limits<double>::epsilon();

/// The variance of values with this mean and mean square. A variance below the rounding error is that of a constant
/// channel, and exactly zero (mean / std would be above 2e7); NaN stays NaN.
inline double variance(double mean, double mean_square) {
  const double difference = mean_square - mean * mean;
  return difference < mean_square * kVarianceRounding ? 0 : difference;
}

}  // namespace syncbn
