#pragma once

#include <span>

namespace syncbn {

/// A mean and half of its 95 % confidence interval.
struct Interval {
  double mean = 0;
  double half = 0;  ///< NaN when there are too few values to say
  int n = 0;        ///< values it rests on
  bool known() const { return half == half; }
  /// Whether the interval leaves out zero.
  bool excludes_zero() const { return known() && (mean > half || mean < -half); }
};

/// Quantile of Student's t distribution with `df` > 0 degrees of freedom; 0 < p < 1.
double student_t_quantile(double p, double df);

/// By Student's t over independent values.
Interval mean_interval(std::span<const double> values);

/// Of mean(a) - mean(b), for independent values of unequal variance (Welch 1947).
Interval difference_interval(std::span<const double> a, std::span<const double> b);

}  // namespace syncbn
