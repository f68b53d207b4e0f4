#include <fmt/format.h>

#include <tuple>

#include "support/ops_support.hpp"

namespace syncbn::testing {
namespace {

using ops::ChannelMap;
using ops::FusedRelu;
using ops::GradientMap;

struct Tolerance {
  double relative, absolute;
};

Tolerance tolerance_of(DataType type) {
  switch (type) {
    case DataType::f64:
      return {1e-12, 1e-12};
    case DataType::f16:
      return {1e-3, 1e-3};
    case DataType::bf16:
      return {1.6e-2, 1e-2};
    case DataType::f32:
      break;
  }
  return {1.3e-6, 1e-5};
}

/// A map that normalizes data of this mean and deviation, with positive, negative and zero gammas.
ChannelMap make_map(std::int64_t channels, double mean, double std) {
  ChannelMap map(channels + 16);
  Random random(11, Purpose::test);
  for (std::int64_t c = 0; c < channels; ++c) {
    const auto i = static_cast<std::size_t>(c);
    map.center[i] = mean + 0.1 * std * random.normal();
    map.scale[i] = (c % 5 == 1 ? -1.5 : c % 5 == 2 ? 0.0 : 0.8) / std;
    map.shift[i] = c % 5 == 2 ? 0.0 : 0.3 * random.normal();
  }
  map.round();
  return map;
}

GradientMap make_gradient(std::int64_t channels, const ChannelMap& map, double std) {
  GradientMap gradient(channels + 16);
  Random random(12, Purpose::test);
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
    gradient.p[c] = random.normal() / std;
    gradient.q[c] = 0.1 * random.normal() / (std * std);
    gradient.r[c] = 0.1 * random.normal() / std;
  }
  gradient.round(map);
  return gradient;
}

using Parameters = std::tuple<Layout, DataType>;

class BatchNormKernelsTest : public ::testing::TestWithParam<Parameters> {
 protected:
  static constexpr std::int64_t kN = 3;

  BatchNormKernelsTest() {
    std::tie(layout, type) = GetParam();
    tolerance = tolerance_of(type);
    const bool narrow = type == DataType::f16 || type == DataType::bf16;
    mean = narrow ? 3 : 2e4, std = 2;
  }

  /// Runs check() with `shape` and `channels` set to each of many shapes.
  template <class Check>
  void over_shapes(Check check) {
    std::vector<Shape> shapes = {{kN, 27}, {kN, 2048}, {kN, 5, 3, 3, 2}, {kN, 6, 9}};
    for (const std::int64_t c : {1, 3, 27, 64}) {
      shapes.push_back({kN, c, 7, 5});
      shapes.push_back({kN, c, 13, 11});
    }
    for (const Shape& each : shapes) {
      shape = each, channels = each.c();
      SCOPED_TRACE(shape.str());
      check();
      if (HasFatalFailure()) return;
    }
  }

  Array make(std::uint64_t seed, double about, double deviation) const {
    Array array(shape, layout, type);
    array.fill(seed, about, deviation);
    return array;
  }
  Array data(std::uint64_t seed) const { return make(seed, mean, std); }
  std::vector<double> per_channel() const { return std::vector<double>(static_cast<std::size_t>(channels)); }
  static std::size_t at(std::int64_t c) { return static_cast<std::size_t>(c); }

  /// Normalized value in fp64.
  static double normalized(const ChannelMap& map, const Array& x, std::int64_t n, std::int64_t c, std::int64_t i) {
    return (x.get(n, c, i) - map.center[at(c)]) * map.scale[at(c)] + map.shift[at(c)];
  }

  std::unique_ptr<ops::Backend> backend = ops::make_cpu_backend();
  const ops::BatchNormKernels& kernels = backend->batch_norm();
  Layout layout;
  DataType type;
  std::int64_t channels = 0;
  Shape shape;
  Tolerance tolerance;
  double mean, std;
};

TEST_P(BatchNormKernelsTest, SumsGiveMeanAndVarianceAsInFp64) {
  over_shapes([&] {
    Array x = data(1);
    auto pivot = per_channel(), sum = per_channel(), sum_sq = per_channel();
    kernels.pivot(x, 1, pivot.data());
    kernels.sums(x, {0, kN}, pivot.data(), sum.data(), sum_sq.data());
    const double count = static_cast<double>(kN * x.spatial());
    for (std::int64_t c = 0; c < channels; ++c) {
      double pivot_sum = 0, exact_sum = 0, squares = 0;
      for (std::int64_t i = 0; i < x.spatial(); ++i) pivot_sum += x.get(1, c, i);
      const double near = pivot_sum / static_cast<double>(x.spatial());
      ASSERT_NEAR(pivot[at(c)], near, 1e-5 * std::abs(near) + 1e-2 * std);
      for (std::int64_t n = 0; n < kN; ++n)
        for (std::int64_t i = 0; i < x.spatial(); ++i) exact_sum += x.get(n, c, i);
      const double exact_mean = exact_sum / count;
      for (std::int64_t n = 0; n < kN; ++n)
        for (std::int64_t i = 0; i < x.spatial(); ++i) squares += std::pow(x.get(n, c, i) - exact_mean, 2);
      const double got_mean = pivot[at(c)] + sum[at(c)] / count;
      const double got_var = sum_sq[at(c)] / count - std::pow(sum[at(c)] / count, 2);
      ASSERT_NO_FATAL_FAILURE(expect_close(got_mean, exact_mean, type == DataType::f64 ? 1e-14 : 1e-6, 0, "mean"));
      ASSERT_NO_FATAL_FAILURE(
          expect_close(got_var, squares / count, type == DataType::f64 ? 1e-11 : 1e-6, 1e-15, "variance"));
    }
  });
}

TEST_P(BatchNormKernelsTest, ApplyEqualsFp64) {
  over_shapes([&] {
    const ChannelMap map = make_map(channels, mean, std);
    Array x = data(2), add = make(3, 0, 1), y(shape, layout, type);
    for (const bool with_add : {false, true}) {
      for (const FusedRelu relu : {FusedRelu::none, FusedRelu::recompute, FusedRelu::bits}) {
        if (with_add && relu == FusedRelu::recompute) continue;
        std::vector<std::uint8_t> mask(static_cast<std::size_t>(kN * kernels.mask_bytes_per_sample(x)));
        kernels.apply(x, with_add ? add.tensor() : Tensor{}, y, {0, kN}, map, relu, mask.data());
        y.for_each([&](auto n, auto c, auto i) {
          double want = normalized(map, x, n, c, i) + (with_add ? add.get(n, c, i) : 0.0);
          if (relu != FusedRelu::none) want = std::max(want, 0.0);
          expect_close(y.get(n, c, i), want, tolerance.relative, tolerance.absolute, "y");
        });
        ASSERT_TRUE(y.padding_is_clean());
      }
    }
  });
}

TEST_P(BatchNormKernelsTest, BackwardEqualsFp64) {
  over_shapes([&] {
    const ChannelMap map = make_map(channels, mean, std);
    const GradientMap gradient = make_gradient(channels, map, std);
    Array x = data(4), dy = make(5, 0.5, 1), y(shape, layout, type);
    for (const FusedRelu relu : {FusedRelu::none, FusedRelu::recompute, FusedRelu::bits}) {
      std::vector<std::uint8_t> mask(static_cast<std::size_t>(kN * kernels.mask_bytes_per_sample(x)));
      kernels.apply(x, {}, y, {0, kN}, map, relu, mask.data());
      // Of values within rounding of 0, y says on which side they were. Where y is 0 the gradient is, ties included.
      const auto g = [&](auto n, auto c, auto i) {
        return relu == FusedRelu::none || y.get(n, c, i) > 0 ? dy.get(n, c, i) : 0.0;
      };
      auto sum_dy = per_channel(), sum_dy_xc = per_channel();
      kernels.backward_sums(x, dy, {0, kN}, map, relu, mask.data(), sum_dy.data(), sum_dy_xc.data());
      for (std::int64_t c = 0; c < channels; ++c) {
        double want = 0, want_xc = 0, magnitude = 0, magnitude_xc = 0;
        for (std::int64_t n = 0; n < kN; ++n)
          for (std::int64_t i = 0; i < x.spatial(); ++i) {
            const double xc = x.get(n, c, i) - map.center[at(c)];
            want += g(n, c, i), want_xc += g(n, c, i) * xc;
            magnitude += std::abs(g(n, c, i)), magnitude_xc += std::abs(g(n, c, i) * xc);
          }
        ASSERT_NEAR(sum_dy[at(c)], want, 1e-6 * magnitude);
        ASSERT_NEAR(sum_dy_xc[at(c)], want_xc, 1e-6 * magnitude_xc);
      }
      for (const bool accumulate : {false, true}) {
        Array dx = make(6, 0, 1), d_add = make(7, 0, 1), dx_before = make(6, 0, 1), add_before = make(7, 0, 1);
        kernels.backward(x, dy, dx, d_add, {0, kN}, map, relu, mask.data(), gradient, accumulate, !accumulate);
        dx.for_each([&](auto n, auto c, auto i) {
          const double want = gradient.p[at(c)] * g(n, c, i) +
                              gradient.q[at(c)] * (x.get(n, c, i) - map.center[at(c)]) + gradient.r[at(c)] +
                              (accumulate ? dx_before.get(n, c, i) : 0.0);
          expect_close(dx.get(n, c, i), want, tolerance.relative, tolerance.absolute, "dx");
          const double want_add = g(n, c, i) + (accumulate ? 0.0 : add_before.get(n, c, i));
          expect_close(d_add.get(n, c, i), want_add, tolerance.relative, tolerance.absolute, "d_add");
        });
        ASSERT_TRUE(dx.padding_is_clean());
        ASSERT_TRUE(d_add.padding_is_clean());
      }
    }
  });
}

TEST_P(BatchNormKernelsTest, CuttingTheBatchIntoRangesChangesNoBit) {
  over_shapes([&] {
    const ChannelMap map = make_map(channels, mean, std);
    const GradientMap gradient = make_gradient(channels, map, std);
    Array x = data(8), dy = make(9, 0, 1);
    const auto all = [&](const std::vector<ops::Samples>& cuts, Array& y, Array& dx) {
      std::vector<double> sums(static_cast<std::size_t>(4 * channels)), pivot(static_cast<std::size_t>(channels), mean);
      std::vector<std::uint8_t> mask(static_cast<std::size_t>(kN * kernels.mask_bytes_per_sample(x)));
      double* s = sums.data();
      for (const auto cut : cuts) {
        kernels.sums(x, cut, pivot.data(), s, s + channels);
        kernels.apply(x, {}, y, cut, map, FusedRelu::bits, mask.data());
        kernels.backward_sums(x, dy, cut, map, FusedRelu::bits, mask.data(), s + 2 * channels, s + 3 * channels);
        kernels.backward(x, dy, dx, {}, cut, map, FusedRelu::bits, mask.data(), gradient, false, false);
      }
      return sums;
    };
    Array y(shape, layout, type), y_cut(shape, layout, type), dx(shape, layout, type), dx_cut(shape, layout, type);
    EXPECT_EQ(all({{0, 3}}, y, dx), all({{0, 1}, {1, 1}, {1, 3}}, y_cut, dx_cut));
    EXPECT_TRUE(y.same_bytes(y_cut));
    EXPECT_TRUE(dx.same_bytes(dx_cut));
  });
}

TEST_P(BatchNormKernelsTest, RecomputedMaskEqualsStoredBits) {
  over_shapes([&] {
    const ChannelMap map = make_map(channels, mean, std);
    const GradientMap gradient = make_gradient(channels, map, std);
    Array x = data(10), dy = make(11, 0, 1), y(shape, layout, type);
    Array dx_bits(shape, layout, type), dx_recompute(shape, layout, type);
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(kN * kernels.mask_bytes_per_sample(x)));
    kernels.apply(x, {}, y, {0, kN}, map, FusedRelu::bits, mask.data());
    kernels.backward(x, dy, dx_bits, {}, {0, kN}, map, FusedRelu::bits, mask.data(), gradient, false, false);
    kernels.backward(x, dy, dx_recompute, {}, {0, kN}, map, FusedRelu::recompute, nullptr, gradient, false, false);
    EXPECT_TRUE(dx_bits.same_bytes(dx_recompute));
  });
}

TEST_P(BatchNormKernelsTest, OtherLayoutsOfYAndGradientsGiveTheSameValues) {
  over_shapes([&] {
    const ChannelMap map = make_map(channels, mean, std);
    const GradientMap gradient = make_gradient(channels, map, std);
    Array x = data(12), dy = make(13, 0, 1), y(shape, layout, type), dx(shape, layout, type);
    std::vector<std::uint8_t> mask(static_cast<std::size_t>(kN * kernels.mask_bytes_per_sample(x)));
    kernels.apply(x, {}, y, {0, kN}, map, FusedRelu::bits, mask.data());
    kernels.backward(x, dy, dx, {}, {0, kN}, map, FusedRelu::bits, mask.data(), gradient, false, false);
    for (const Layout other : all_layouts()) {
      Array y2(shape, other, type), dx2(shape, other, type), dy2(shape, other, type);
      dy2.fill(13, 0, 1);
      std::vector<std::uint8_t> mask2(mask.size());
      kernels.apply(x, {}, y2, {0, kN}, map, FusedRelu::bits, mask2.data());
      EXPECT_EQ(mask, mask2);
      kernels.backward(x, dy2, dx2, {}, {0, kN}, map, FusedRelu::bits, mask2.data(), gradient, false, false);
      y.for_each([&](auto n, auto c, auto i) {
        ASSERT_EQ(y.get(n, c, i), y2.get(n, c, i));
        ASSERT_EQ(dx.get(n, c, i), dx2.get(n, c, i));
      });
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, BatchNormKernelsTest,
                         ::testing::Combine(::testing::ValuesIn(all_layouts()),
                                            ::testing::Values(DataType::f32, DataType::f64, DataType::f16,
                                                              DataType::bf16)),
                         [](const auto& test) {
                           return fmt::format("{}_{}", name_of(std::get<0>(test.param)),
                                              name_of(std::get<1>(test.param)));
                         });

TEST(BatchNormKernels, TiesAtZeroHaveNoGradientAndNanStays) {
  const auto backend = ops::make_cpu_backend();
  const auto& kernels = backend->batch_norm();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Layout layout : all_layouts()) {
    ChannelMap map(16);
    GradientMap gradient(16);
    for (std::size_t c = 0; c < 5; ++c) map.scale[c] = 1, gradient.p[c] = 1;
    map.round();
    gradient.round(map);
    Array x(Shape{1, 5, 3, 3}, layout), y(x.tensor().shape, layout), dy(x.tensor().shape, layout),
        dx(x.tensor().shape, layout);
    dy.for_each([&](auto n, auto c, auto i) { dy.set(n, c, i, 1); });
    x.set(0, 1, 4, nan);
    x.set(0, 4, 8, 2);
    for (const FusedRelu relu : {FusedRelu::none, FusedRelu::recompute, FusedRelu::bits}) {
      std::vector<std::uint8_t> mask(static_cast<std::size_t>(kernels.mask_bytes_per_sample(x)));
      kernels.apply(x, {}, y, {0, 1}, map, relu, mask.data());
      EXPECT_TRUE(std::isnan(y.get(0, 1, 4)));
      EXPECT_EQ(y.get(0, 4, 8), 2);
      kernels.backward(x, dy, dx, {}, {0, 1}, map, relu, mask.data(), gradient, false, false);
      EXPECT_EQ(dx.get(0, 0, 0), relu == FusedRelu::none ? 1 : 0);
      EXPECT_EQ(dx.get(0, 4, 8), 1);
      std::vector<double> sum(5), sum_xc(5);
      kernels.backward_sums(x, dy, {0, 1}, map, relu, mask.data(), sum.data(), sum_xc.data());
      EXPECT_EQ(sum[0], relu == FusedRelu::none ? 9 : 0);
      EXPECT_EQ(sum[4], relu == FusedRelu::none ? 9 : 1);
    }
    std::vector<double> pivot(5), sum(5), sum_sq(5);
    kernels.sums(x, {0, 1}, pivot.data(), sum.data(), sum_sq.data());
    EXPECT_TRUE(std::isnan(sum[1]) && std::isnan(sum_sq[1]));
    EXPECT_EQ(sum[4], 2);
  }
}

TEST(BatchNormKernels, LongSumsKeepTheirPrecision) {
  const auto backend = ops::make_cpu_backend();
  const auto& kernels = backend->batch_norm();
  for (const Layout layout : {Layout::channels_first, Layout::blocked16}) {
    Array x(Shape{2, 3, 317, 316}, layout);
    x.fill(1, 1e4, 1);
    std::vector<double> pivot(3), sum(3), sum_sq(3);
    kernels.pivot(x, 0, pivot.data());
    kernels.sums(x, {0, 2}, pivot.data(), sum.data(), sum_sq.data());
    const double count = static_cast<double>(2 * x.spatial());
    for (std::int64_t c = 0; c < 3; ++c) {
      double exact = 0, squares = 0;
      x.for_each([&](auto n, auto channel, auto i) { exact += channel == c ? x.get(n, c, i) : 0.0; });
      exact /= count;
      x.for_each(
          [&](auto n, auto channel, auto i) { squares += channel == c ? std::pow(x.get(n, c, i) - exact, 2) : 0.0; });
      const auto k = static_cast<std::size_t>(c);
      EXPECT_NEAR(pivot[k] + sum[k] / count, exact, 1e-9 * exact);
      EXPECT_NEAR(sum_sq[k] / count - std::pow(sum[k] / count, 2), squares / count, 1e-6);
    }
  }
}

TEST(BatchNormKernels, RefusesToRecomputeAMaskBehindAResidual) {
  const auto backend = ops::make_cpu_backend();
  Array x(Shape{1, 8, 2, 2}, Layout::blocked8), y(Shape{1, 8, 2, 2}, Layout::blocked8);
  EXPECT_ANY_THROW(backend->batch_norm().apply(x, x, y, {0, 1}, ChannelMap(8), FusedRelu::recompute, nullptr));
}

}  // namespace
}  // namespace syncbn::testing
