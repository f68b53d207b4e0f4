#include <fmt/format.h>

#include <limits>

#include "support/ops_support.hpp"

namespace syncbn::testing {
namespace {

TEST(Linear, EqualsPlainLoopsForAnyNumberOfSamples) {
  const auto backend = ops::make_cpu_backend();
  backend->prepare_thread();
  const std::int64_t in = 37, out = 11;
  Random random(3, Purpose::test);
  std::vector<float> weight(static_cast<std::size_t>(in * out)), bias(static_cast<std::size_t>(out));
  for (auto* values : {&weight, &bias})
    for (auto& v : *values) v = static_cast<float>(random.normal());
  const auto w = [&](std::int64_t o, std::int64_t i) { return double{weight[o * in + i]}; };
  for (const bool with_bias : {false, true}) {
    const auto linear = backend->linear(in, out, with_bias);
    for (const std::int64_t n : {0, 1, 3, 64, 3}) {
      SCOPED_TRACE(n);
      Array x(Shape{n, in}, Layout::channels_first), y(Shape{n, out}, Layout::channels_first);
      Array dx(Shape{n, in}, Layout::channels_first), before(Shape{n, in}, Layout::channels_first);
      x.fill(1);
      linear->forward(x, weight.data(), bias.data(), y, n);
      y.for_each([&](auto k, auto o, auto) {
        double want = with_bias ? double{bias[o]} : 0.0;
        for (std::int64_t i = 0; i < in; ++i) want += w(o, i) * x.get(k, i, 0);
        expect_close(y.get(k, o, 0), want, 1e-5, 1e-5, "y");
      });
      for (const bool accumulate : {false, true}) {
        dx.fill(2);
        before.fill(2);
        linear->backward_data(y, weight.data(), dx, n, accumulate);
        dx.for_each([&](auto k, auto i, auto) {
          double want = accumulate ? before.get(k, i, 0) : 0.0;
          for (std::int64_t o = 0; o < out; ++o) want += w(o, i) * y.get(k, o, 0);
          expect_close(dx.get(k, i, 0), want, 1e-5, 1e-4, "dx");
        });
      }
      for (const bool accumulate : {false, true}) {
        std::vector<float> d_weight(weight.size(), 2), d_bias(bias.size(), 3);
        linear->backward_weights(x, y, n, d_weight.data(), d_bias.data(), accumulate);
        for (std::int64_t o = 0; o < out; ++o) {
          double want_bias = accumulate ? 3 : 0;
          for (std::int64_t k = 0; k < n; ++k) want_bias += y.get(k, o, 0);
          if (with_bias) expect_close(d_bias[o], want_bias, 1e-5, 1e-4, "d_bias");
          for (std::int64_t i = 0; i < in; ++i) {
            double want = accumulate ? 2 : 0;
            for (std::int64_t k = 0; k < n; ++k) want += y.get(k, o, 0) * x.get(k, i, 0);
            expect_close(d_weight[o * in + i], want, 1e-5, 1e-4, "d_weight");
          }
        }
      }
    }
  }
}

class PoolTest : public ::testing::TestWithParam<ops::PoolGeometry> {
 protected:
  static constexpr std::int64_t kN = 3;
  ops::PoolGeometry g = GetParam();
  std::unique_ptr<ops::Backend> backend = ops::make_cpu_backend();
  Array input() const { return {Shape{kN, g.c, g.h_in, g.w_in}, backend->preferred_layout(g.c)}; }
  Array output() const { return {Shape{kN, g.c, g.h_out, g.w_out}, backend->preferred_layout(g.c)}; }

  /// visit(input position) for the places of the window of an output position that lie inside the image.
  template <class Visit>
  void for_window(std::int64_t position, Visit visit) const {
    const std::int64_t h0 = position / g.w_out * g.stride - g.padding, w0 = position % g.w_out * g.stride - g.padding;
    for (std::int64_t h = std::max<std::int64_t>(h0, 0); h < std::min(h0 + g.kernel, g.h_in); ++h)
      for (std::int64_t w = std::max<std::int64_t>(w0, 0); w < std::min(w0 + g.kernel, g.w_in); ++w) {
        visit(h * g.w_in + w);
      }
  }
};

TEST_P(PoolTest, ForwardAndBackwardEqualPlainLoops) {
  backend->prepare_thread();
  const auto pool = backend->pool(g);
  const bool max = g.kind == ops::PoolKind::max;
  Array x = input(), y = output(), dy = output();
  x.fill(1);
  dy.fill(2);
  std::vector<std::uint8_t> workspace(static_cast<std::size_t>(kN * pool->workspace_bytes_per_sample()));
  for (const std::int64_t n : {2, 0, 1}) pool->forward(x, y, workspace.data(), {n, n + 1});
  std::vector<double> want_dx(static_cast<std::size_t>(kN * g.c * x.spatial()));
  const auto dx_at = [&](auto n, auto c, auto i) -> double& { return want_dx[(n * g.c + c) * x.spatial() + i]; };
  y.for_each([&](auto n, auto c, auto i) {
    double best = -std::numeric_limits<double>::infinity(), sum = 0;
    std::int64_t best_at = 0;
    for_window(i, [&](std::int64_t from) {
      const double value = x.get(n, c, from);
      sum += value;
      if (value > best) best = value, best_at = from;
    });
    const double area = static_cast<double>(g.kernel * g.kernel);
    expect_close(y.get(n, c, i), max ? best : sum / area, 1e-6, 1e-6, "y");
    if (max) {
      dx_at(n, c, best_at) += dy.get(n, c, i);
    } else {
      for_window(i, [&](std::int64_t from) { dx_at(n, c, from) += dy.get(n, c, i) / area; });
    }
  });
  EXPECT_TRUE(y.padding_is_clean());
  for (const bool accumulate : {false, true}) {
    Array dx = input(), before = input();
    dx.fill(3);
    before.fill(3);
    pool->backward(dy, dx, workspace.data(), {0, kN}, accumulate);
    dx.for_each([&](auto n, auto c, auto i) {
      expect_close(dx.get(n, c, i), dx_at(n, c, i) + (accumulate ? before.get(n, c, i) : 0.0), 1e-5, 1e-5, "dx");
    });
    EXPECT_TRUE(dx.padding_is_clean());
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PoolTest,
                         ::testing::Values(ops::PoolGeometry{ops::PoolKind::max, 6, 8, 10, 4, 5, 2, 2, 0},
                                           ops::PoolGeometry{ops::PoolKind::max, 64, 9, 9, 5, 5, 3, 2, 1},
                                           ops::PoolGeometry{ops::PoolKind::max, 16, 5, 7, 2, 3, 2, 2, 0},
                                           ops::PoolGeometry{ops::PoolKind::max, 3, 6, 6, 6, 6, 3, 1, 1},
                                           ops::PoolGeometry{ops::PoolKind::average, 6, 8, 8, 4, 4, 2, 2, 0},
                                           ops::PoolGeometry{ops::PoolKind::average, 32, 9, 7, 5, 4, 3, 2, 1}),
                         [](const auto& test) {
                           const ops::PoolGeometry& g = test.param;
                           return fmt::format("{}_c{}_{}x{}_k{}_s{}_p{}",
                                              g.kind == ops::PoolKind::max ? "max" : "average", g.c, g.h_in, g.w_in,
                                              g.kernel, g.stride, g.padding);
                         });

TEST(Pool, MaximumOfAWindowWithNanIsNan) {
  const auto backend = ops::make_cpu_backend();
  for (const std::int64_t c : {3, 6, 16}) {
    const auto pool = backend->pool({ops::PoolKind::max, c, 4, 6, 2, 3, 2, 2, 0});
    Array x(Shape{2, c, 4, 6}, backend->preferred_layout(c)), y(Shape{2, c, 2, 3}, backend->preferred_layout(c));
    x.fill(1);
    x.set(1, c - 1, 9, std::numeric_limits<double>::quiet_NaN());  // row 1, column 3: the second window
    std::vector<std::uint8_t> workspace(static_cast<std::size_t>(2 * pool->workspace_bytes_per_sample()));
    pool->forward(x, y, workspace.data(), {0, 2});
    y.for_each([&](auto n, auto channel, auto i) {
      EXPECT_EQ(std::isnan(y.get(n, channel, i)), n == 1 && channel == c - 1 && i == 1);
    });
  }
}

TEST(Pool, NanReachesTheWindowsThatHoldIt) {
  const auto backend = ops::make_cpu_backend();
  const auto pool = backend->pool({ops::PoolKind::max, 3, 5, 5, 3, 3, 3, 2, 1});
  for (std::int64_t place = 0; place < 25; ++place) {
    Array x(Shape{1, 3, 5, 5}, backend->preferred_layout(3)), y(Shape{1, 3, 3, 3}, backend->preferred_layout(3));
    x.fill(1);
    x.set(0, 1, place, std::numeric_limits<double>::quiet_NaN());
    std::vector<std::uint8_t> workspace(static_cast<std::size_t>(pool->workspace_bytes_per_sample()));
    pool->forward(x, y, workspace.data(), {0, 1});
    y.for_each([&](auto n, auto channel, auto i) {
      const std::int64_t rows = place / 5 - (2 * (i / 3) - 1), columns = place % 5 - (2 * (i % 3) - 1);
      const bool holds = rows >= 0 && rows < 3 && columns >= 0 && columns < 3;
      EXPECT_EQ(std::isnan(y.get(n, channel, i)), channel == 1 && holds) << place << ", " << i;
    });
  }
}

TEST(Pool, RefusesAnotherLayout) {
  const auto backend = ops::make_cpu_backend();
  const auto pool = backend->pool({ops::PoolKind::average, 16, 4, 4, 2, 2, 2, 2, 0});
  Array x(Shape{1, 16, 4, 4}, Layout::channels_last), y(Shape{1, 16, 2, 2}, Layout::channels_last);
  EXPECT_ANY_THROW(pool->forward(x, y, nullptr, {0, 1}));
}

}  // namespace
}  // namespace syncbn::testing
