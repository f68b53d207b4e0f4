#include "ops/backend.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/ops_support.hpp"
#include "syncbn/nn/model.hpp"

namespace syncbn {
namespace {

using testing::Array;
using testing::expect_close;

/// The definition, in f64 and for one sample: y = gamma * (x - mean) / sqrt(var + eps) + beta (+ add) (then ReLU).
struct Oracle {
  std::int64_t channels, positions, groups;
  std::vector<double> gamma, beta;
  std::vector<double> add;
  bool relu = false;

  std::vector<double> forward(const std::vector<double>& x) const {
    const std::int64_t width = channels / groups, m = width * positions;
    std::vector<double> y(x.size());
    for (std::int64_t g = 0; g < groups; ++g) {
      double mean = 0, var = 0;
      for (std::int64_t i = g * m; i < (g + 1) * m; ++i) mean += x[i] / static_cast<double>(m);
      for (std::int64_t i = g * m; i < (g + 1) * m; ++i) {
        var += std::pow(x[i] - mean, 2) / static_cast<double>(m);
      }
      for (std::int64_t i = g * m; i < (g + 1) * m; ++i) {
        const auto at = static_cast<std::size_t>(i), c = static_cast<std::size_t>(i / positions);
        double value = gamma[c] * (x[at] - mean) / std::sqrt(var + 1e-5) + beta[c];
        if (!add.empty()) value += add[at];
        y[at] = relu && value < 0 ? 0 : value;
      }
    }
    return y;
  }

  /// d(sum(dy * y)) / d(*value), by central differences.
  double slope(double& value, const std::vector<double>& x, const std::vector<double>& dy) const {
    const double kept = value, h = 1e-5 * std::max(1.0, std::abs(kept));
    double sum = 0;
    for (const double sign : {1.0, -1.0}) {
      value = kept + sign * h;
      const std::vector<double> y = forward(x);
      for (std::size_t i = 0; i < y.size(); ++i) sum += sign * dy[i] * y[i] / (2 * h);
    }
    value = kept;
    return sum;
  }
};

struct Case {
  Shape shape;
  std::int64_t groups;
  double offset = 0.5;
  bool relu = false, add = false;
};

std::vector<double> sample_of(const Array& a, std::int64_t n) {
  std::vector<double> values;
  for (std::int64_t c = 0; c < a.c(); ++c)
    for (std::int64_t i = 0; i < a.spatial(); ++i) values.push_back(a.get(n, c, i));
  return values;
}

void check(const Case& p, DataType type, Layout layout) {
  const auto backend = ops::make_cpu_backend();
  const std::int64_t channels = p.shape.c(), n = p.shape.n(), s = p.shape.spatial();
  const auto norm = backend->group_normalization(channels, p.groups, 1e-5, n);
  Array x(p.shape, layout, type), dy(p.shape, layout, type), add(p.shape, layout, type);
  Array y(p.shape, layout, type), dx(p.shape, layout, type), d_add(p.shape, layout, type);
  x.fill(1, p.offset, 2), dy.fill(2), add.fill(3);
  std::vector<float> gamma, beta;
  for (std::int64_t c = 0; c < channels; ++c) {
    gamma.push_back(static_cast<float>(c % 3) - 0.75f);
    beta.push_back(0.1f * static_cast<float>(c % 5));
  }
  const auto relu = !p.relu ? ops::FusedRelu::none : p.add ? ops::FusedRelu::bits : ops::FusedRelu::recompute;
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(backend->batch_norm().mask_bytes_per_sample(x) * n));
  const Tensor none, added = p.add ? add.tensor() : none, d_added = p.add ? d_add.tensor() : none;
  const ops::Affine affine{gamma.data(), beta.data()};
  norm->forward(x, added, y, {0, n}, affine, relu, mask.data());
  norm->backward(x, dy, dx, d_added, {0, 1}, affine, relu, mask.data(), false, false);
  norm->backward(x, dy, dx, d_added, {1, n}, affine, relu, mask.data(), false, false);
  std::vector<float> got_gamma(gamma.size()), got_beta(gamma.size());
  norm->add_parameter_gradients(n, got_gamma.data(), got_beta.data());

  const bool narrow = type == DataType::bf16;
  const double forward = narrow ? 1.6e-2 : 1e-6, backward = narrow ? 3e-2 : 1e-5;
  const double cancels = std::max(1.0, std::abs(p.offset));  // x itself is rounded; so is what is left of it
  std::vector<double> d_gamma(gamma.size()), d_beta(gamma.size());
  for (std::int64_t k = 0; k < n; ++k) {
    Oracle oracle{channels, s, p.groups, {gamma.begin(), gamma.end()}, {beta.begin(), beta.end()}, {}, p.relu};
    if (p.add) oracle.add = sample_of(add, k);
    std::vector<double> in = sample_of(x, k);
    const std::vector<double> g = sample_of(dy, k), want = oracle.forward(in);
    const std::vector<double> got = sample_of(y, k), got_dx = sample_of(dx, k), got_add = sample_of(d_add, k);
    for (std::size_t i = 0; i < in.size(); ++i) {
      expect_close(got[i], want[i], forward, forward * cancels, "y");
      expect_close(got_dx[i], oracle.slope(in[i], in, g), backward, backward * cancels, "dx");
      if (p.add) expect_close(got_add[i], want[i] > 0 || !p.relu ? g[i] : 0, 1e-9, 0, "d_add");
    }
    for (std::size_t c = 0; c < gamma.size(); ++c) {
      d_gamma[c] += oracle.slope(oracle.gamma[c], in, g);
      d_beta[c] += oracle.slope(oracle.beta[c], in, g);
    }
  }
  for (std::size_t c = 0; c < gamma.size(); ++c) {
    expect_close(got_gamma[c], d_gamma[c], backward, backward * cancels * static_cast<double>(n), "d_gamma");
    expect_close(got_beta[c], d_beta[c], backward, backward * static_cast<double>(n), "d_beta");
  }
}

TEST(GroupNorm, AgreesWithTheDefinition) {
  const std::vector<Case> cases = {
      {{3, 6, 5, 3}, 1},          // layer
      {{2, 6, 4, 4}, 6},          // instance
      {{3, 6, 5, 3}, 2},          // a group across the vectors of a blocked layout
      {{2, 20, 3, 2}, 4},         //
      {{4, 24}, 3},               // no positions
      {{2, 8, 7}, 4, 0.5, true},  // fused ReLU
      {{2, 8, 3, 3}, 4, 0.5, true, true},
      {{2, 8, 3, 3}, 2, 0.5, false, true},
      {{2, 6, 4, 4}, 3, 1e3},  // far from zero
  };
  for (const Case& c : cases) {
    for (const Layout layout : testing::all_layouts()) {
      SCOPED_TRACE(c.shape.str() + " " + name_of(layout));
      check(c, DataType::f32, layout);
      check(c, DataType::f64, layout);
      if (c.offset < 1 && !c.relu) check(c, DataType::bf16, layout);
    }
  }
}

// A sample's result depends on nothing but the sample.
TEST(GroupNorm, SamplesDoNotSeeEachOther) {
  const auto backend = ops::make_cpu_backend();
  const auto norm = backend->group_normalization(8, 2, 1e-5, 4);
  Array x({4, 8, 3, 3}, Layout::blocked8), whole({4, 8, 3, 3}, Layout::blocked8), parts({4, 8, 3, 3}, Layout::blocked8);
  x.fill(7);
  norm->forward(x, {}, whole, {0, 4}, {}, ops::FusedRelu::none, nullptr);
  for (std::int64_t n = 3; n >= 0; --n) norm->forward(x, {}, parts, {n, n + 1}, {}, ops::FusedRelu::none, nullptr);
  EXPECT_TRUE(whole.same_bytes(parts));
}

TEST(GroupNorm, ConstantSamplesBecomeBeta) {
  const auto backend = ops::make_cpu_backend();
  const auto norm = backend->group_normalization(4, 2, 1e-5, 1);
  Array x({1, 4, 3, 3}, Layout::channels_last), y({1, 4, 3, 3}, Layout::channels_last);
  x.fill(1, 1e4, 0);
  const std::vector<float> beta{1, 2, 3, 4};
  norm->forward(x, {}, y, {0, 1}, {nullptr, beta.data()}, ops::FusedRelu::none, nullptr);
  for (std::int64_t c = 0; c < 4; ++c) EXPECT_EQ(y.get(0, c, 4), static_cast<double>(c + 1));
}

TEST(GroupNorm, NumberOfGroupsFitsTheLayer) {
  EXPECT_EQ(group_count(32, {1, 64, 56, 56}), 32);
  EXPECT_EQ(group_count(32, {1, 256, 1, 1}), 16);  // 16 values each
  EXPECT_EQ(group_count(32, {1, 16, 32, 32}), 8);  // 2 channels each
  EXPECT_EQ(group_count(32, {1, 6, 28, 28}), 3);
  EXPECT_EQ(group_count(4, {1, 6, 28, 28}), 3);
  EXPECT_EQ(group_count(32, {1, 120}), 6);
  EXPECT_EQ(group_count(32, {1, 7, 8, 8}), 1);
  EXPECT_EQ(group_count(32, {1, 1, 8, 8}), 1);
}

}  // namespace
}  // namespace syncbn
