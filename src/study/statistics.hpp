#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace syncbn {

/// A mean and half of its 95 % confidence interval.
struct Interval {
  double mean = 0;
  double half = 0;  ///< NaN when nothing can be said: fewer than two values, or all alike
  int n = 0;        ///< values it rests on
  bool known() const { return half == half; }
  /// Whether the interval leaves out zero.
  bool excludes_zero() const { return known() && (mean > half || mean < -half); }
};

/// Quantile of Student's t distribution with `df` > 0 degrees of freedom; 0 < p < 1.
double student_t_quantile(double p, double df);

/// One result per seed. Equal seeds mean equal initial weights, order of the samples and augmentation.
using BySeed = std::map<std::uint64_t, double>;
std::vector<double> values_of(const BySeed& results);

/// By Student's t over independent values.
Interval mean_interval(std::span<const double> values);

/// Of a - b: by Student's t over the differences at common seeds; where fewer than two are common, of mean(a) - mean(b)
/// for independent values of unequal variance (Welch 1947). Of several `tests` of which one is picked, all hold
/// together with 95 % (Bonferroni).
Interval difference_interval(const BySeed& a, const BySeed& b, int tests = 1);

}  // namespace syncbn
