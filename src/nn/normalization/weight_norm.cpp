#include "nn/normalization/weight_norm.hpp"

#include <cmath>

namespace syncbn {

namespace {

double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

double inverse_norm(std::span<const float> row) {
  const double square = dot(row, row);
  return square > 0 ? 1 / std::sqrt(square) : 0;
}

}  // namespace

void weight_norm(std::span<const float> g, std::span<const float> v, std::span<float> w) {
  const std::size_t inputs = v.size() / g.size();
  for (std::size_t o = 0; o < g.size(); ++o) {
    const std::span<const float> row = v.subspan(o * inputs, inputs);
    const double factor = static_cast<double>(g[o]) * inverse_norm(row);
    for (std::size_t i = 0; i < inputs; ++i)
      w[o * inputs + i] = static_cast<float>(factor * static_cast<double>(row[i]));
  }
}

void weight_norm_gradient(std::span<const float> g, std::span<const float> v, std::span<float> d_v,
                          std::span<float> d_g) {
  const std::size_t inputs = v.size() / g.size();
  for (std::size_t o = 0; o < g.size(); ++o) {
    const std::span<const float> row = v.subspan(o * inputs, inputs);
    const std::span<float> d_row = d_v.subspan(o * inputs, inputs);
    const double inverse = inverse_norm(row), along = dot(d_row, row) * inverse;
    d_g[o] = static_cast<float>(along);
    for (std::size_t i = 0; i < inputs; ++i) {
      const double across = static_cast<double>(d_row[i]) - along * inverse * static_cast<double>(row[i]);
      d_row[i] = static_cast<float>(static_cast<double>(g[o]) * inverse * across);
    }
  }
}

void start_gain(std::span<const float> v, double scale, std::span<float> g) {
  const std::size_t inputs = v.size() / g.size();
  for (std::size_t o = 0; o < g.size(); ++o) {
    const std::span<const float> row = v.subspan(o * inputs, inputs);
    g[o] = static_cast<float>(scale * std::sqrt(dot(row, row)));
  }
}

}  // namespace syncbn
