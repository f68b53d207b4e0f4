#include "study/statistics.hpp"

#include <Eigen/Core>
#include <unsupported/Eigen/SpecialFunctions>

#include <cmath>
#include <limits>

namespace syncbn {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kConfidence = 0.95;

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
  double squares = 0;
  for (const double v : values) squares += (v - m.mean) * (v - m.mean);
  m.variance_of_mean = squares / (m.n - 1) / m.n;
  return m;
}

double half_width(double variance, double df) {
  return student_t_quantile(0.5 + kConfidence / 2, df) * std::sqrt(variance);
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

Interval mean_interval(std::span<const double> values) {
  const Moments m = moments(values);
  return {m.mean, m.n < 2 ? kNan : half_width(m.variance_of_mean, m.n - 1), m.n};
}

Interval difference_interval(std::span<const double> a, std::span<const double> b) {
  const Moments x = moments(a), y = moments(b);
  const double u = x.variance_of_mean, v = y.variance_of_mean;
  Interval d{x.mean - y.mean, kNan, x.n + y.n};
  if (x.n < 2 || y.n < 2) return d;
  const double df = u + v > 0 ? (u + v) * (u + v) / (u * u / (x.n - 1) + v * v / (y.n - 1)) : 1;
  d.half = half_width(u + v, df);
  return d;
}

}  // namespace syncbn
