#include "study/statistics.hpp"

#include <Eigen/Core>
#include <unsupported/Eigen/SpecialFunctions>

#include <algorithm>
#include <cmath>
#include <limits>

namespace syncbn {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kConfidence = 0.95;
/// Values nearer to each other than this (points of error; less than one image of any test set) are alike.
constexpr double kAlike = 1e-6;

/// P(T <= t) for t >= 0, by the regularized incomplete beta function.
double student_t_cdf(double t, double df) {
  return 1 - 0.5 * Eigen::numext::betainc(df / 2, 0.5, df / (df + t * t));
}

struct Moments {
  double mean = kNan, variance_of_mean = kNan;
  int n = 0;
};

Moments moments(std::span<const double> values) {
  Moments m;
  m.n = static_cast<int>(values.size());
  if (m.n == 0) return m;
  m.mean = 0;
  for (const double v : values) m.mean += v;
  m.mean /= m.n;
  if (m.n == 1) return m;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  m.variance_of_mean = 0;
  if (*high - *low < kAlike) return m;
  double squares = 0;
  for (const double v : values) squares += (v - m.mean) * (v - m.mean);
  m.variance_of_mean = squares / (m.n - 1) / m.n;
  return m;
}

/// NaN for a variance of 0: values that happen to be alike do not say how far others would be.
double half_width(double variance, double df, int tests = 1) {
  if (!(variance > 0)) return kNan;
  return student_t_quantile(1 - (1 - kConfidence) / 2 / tests, df) * std::sqrt(variance);
}

Interval student_interval(std::span<const double> values, int tests) {
  const Moments m = moments(values);
  return {m.mean, m.n < 2 ? kNan : half_width(m.variance_of_mean, m.n - 1, tests), m.n};
}

Interval welch_interval(std::span<const double> a, std::span<const double> b, int tests) {
  const Moments x = moments(a), y = moments(b);
  const double u = x.variance_of_mean, v = y.variance_of_mean;
  Interval d{x.mean - y.mean, kNan, x.n + y.n};
  if (!(u > 0) || !(v > 0)) return d;
  const double df = (u + v) * (u + v) / (u * u / (x.n - 1) + v * v / (y.n - 1));
  d.half = half_width(u + v, df, tests);
  return d;
}

}  // namespace

double student_t_quantile(double p, double df) {
  if (p < 0.5) return -student_t_quantile(1 - p, df);
  double low = 0, high = 1;
  while (student_t_cdf(high, df) < p) high *= 2;
  for (int i = 0; i < 200 && high - low > 1e-14 * high; ++i) {
    const double middle = (low + high) / 2;
    (student_t_cdf(middle, df) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

std::vector<double> values_of(const BySeed& results) {
  std::vector<double> values;
  for (const auto& [seed, value] : results) values.push_back(value);
  return values;
}

Interval mean_interval(std::span<const double> values) {
  return student_interval(values, 1);
}

Interval difference_interval(const BySeed& a, const BySeed& b, int tests) {
  std::vector<double> differences;
  for (const auto& [seed, value] : a) {
    if (const auto other = b.find(seed); other != b.end()) differences.push_back(value - other->second);
  }
  if (differences.size() >= 2) return student_interval(differences, tests);
  return welch_interval(values_of(a), values_of(b), tests);
}

}  // namespace syncbn
