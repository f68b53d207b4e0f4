#include <limits>
#include <numeric>

#include "support/ops_support.hpp"

namespace syncbn::testing {
namespace {

using ops::Activation;

constexpr std::int64_t kN = 3;
const Shape kShape{kN, 6, 5, 3};

double activation(Activation kind, double slope, double x) {
  switch (kind) {
    case Activation::relu:
      return x < 0 ? 0 : x;
    case Activation::leaky_relu:
      return x > 0 ? x : slope * x;
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
  }
  return 0;
}

double derivative(Activation kind, double slope, double y) {
  switch (kind) {
    case Activation::relu:
      return y > 0 ? 1 : 0;
    case Activation::leaky_relu:
      return y > 0 ? 1 : slope;
    case Activation::sigmoid:
      return y * (1 - y);
    case Activation::tanh:
      return 1 - y * y;
  }
  return 0;
}

class ElementwiseTest : public ::testing::TestWithParam<Layout> {
 protected:
  std::unique_ptr<ops::Backend> backend = ops::make_cpu_backend();
  const ops::Elementwise& kernels = backend->elementwise();
  const Layout layout = GetParam();
  Array make(std::uint64_t seed, double std = 1) const {
    Array array(kShape, layout);
    array.fill(seed, 0, std);
    return array;
  }
};

TEST_P(ElementwiseTest, ActivationsAndTheirGradients) {
  const float slope = 0.25f;
  for (const auto kind : {Activation::relu, Activation::leaky_relu, Activation::sigmoid, Activation::tanh}) {
    for (const double std : {1.0, 60.0}) {
      Array x = make(1, std), y(kShape, layout), dy = make(2);
      y.poison_padding();
      for (std::int64_t n = 0; n < kN; ++n) kernels.activate(kind, slope, x, y, {n, n + 1});
      y.for_each([&](auto n, auto c, auto i) {
        expect_close(y.get(n, c, i), activation(kind, slope, x.get(n, c, i)), 1e-6, 1e-37, "y");
      });
      EXPECT_TRUE(y.padding_is_clean());
      for (const bool accumulate : {false, true}) {
        Array dx = make(3), before = make(3);
        if (!accumulate) dx.poison_padding();
        kernels.activate_backward(kind, slope, y, dy, dx, {0, kN}, accumulate);
        dx.for_each([&](auto n, auto c, auto i) {
          const double want =
              dy.get(n, c, i) * derivative(kind, slope, y.get(n, c, i)) + (accumulate ? before.get(n, c, i) : 0.0);
          expect_close(dx.get(n, c, i), want, 1e-6, 1e-6, "dx");
        });
        EXPECT_TRUE(dx.padding_is_clean());
      }
    }
  }
}

TEST_P(ElementwiseTest, AtZeroTheSlopeIsThatBelow) {
  for (const auto kind : {Activation::relu, Activation::leaky_relu}) {
    const Array y(kShape, layout), dy = make(2);
    Array dx(kShape, layout);
    kernels.activate_backward(kind, 0.25f, y, dy, dx, {0, kN}, false);
    dx.for_each([&](auto n, auto c, auto i) {
      ASSERT_EQ(dx.get(n, c, i), kind == Activation::relu ? 0 : 0.25 * dy.get(n, c, i));
    });
  }
}

TEST_P(ElementwiseTest, ActivationsPassNanAndSaturate) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {std::numeric_limits<float>::quiet_NaN(), inf, -inf, 1e30f, -1e30f, 0};
  for (const auto kind : {Activation::relu, Activation::leaky_relu, Activation::sigmoid, Activation::tanh}) {
    Array x(kShape, layout), y(kShape, layout);
    for (std::size_t k = 0; k < values.size(); ++k) x.set(0, static_cast<std::int64_t>(k), 7, values[k]);
    kernels.activate(kind, 0.5f, x, y, {0, 1});
    for (std::size_t k = 0; k < values.size(); ++k) {
      expect_close(y.get(0, static_cast<std::int64_t>(k), 7), activation(kind, 0.5, values[k]),
                   std::isinf(values[k]) ? 0 : 1e-6, 0, "y");
    }
  }
}

TEST_P(ElementwiseTest, AddAndCopy) {
  Array a = make(1), b = make(2), y(kShape, layout), sum = make(3);
  const Array before = make(3);
  kernels.add(a, b, y, {0, kN});
  y.for_each([&](auto n, auto c, auto i) {
    ASSERT_EQ(y.get(n, c, i), static_cast<float>(a.get(n, c, i)) + static_cast<float>(b.get(n, c, i)));
  });
  kernels.copy(a, y, {1, kN}, false);
  kernels.copy(a, sum, {1, kN}, true);
  y.for_each([&](auto n, auto c, auto i) {
    if (n == 0) return;
    ASSERT_EQ(y.get(n, c, i), a.get(n, c, i));
    ASSERT_EQ(sum.get(n, c, i), static_cast<float>(before.get(n, c, i)) + static_cast<float>(a.get(n, c, i)));
  });
  EXPECT_EQ(sum.get(0, 1, 2), before.get(0, 1, 2));
}

TEST_P(ElementwiseTest, DropoutKeepsTheRightShareWhateverTheLayoutAndOrder) {
  const Shape shape{2, 6, 50, 40};
  Array x(shape, layout), y(shape, layout), plain_x(shape, Layout::channels_first),
      plain(shape, Layout::channels_first), other(shape, layout), swapped(shape, layout), other_seed(shape, layout);
  x.for_each([&](auto n, auto c, auto i) { x.set(n, c, i, 1), plain_x.set(n, c, i, 1); });
  const std::int64_t ids[] = {17, 18}, ids_swapped[] = {18, 17};
  const auto drop = [&](const Array& from, const Array& to, std::uint64_t step, const std::int64_t* sample_ids) {
    kernels.dropout(from, to, {0, 2}, 0.3f, 5, step, 99, sample_ids, false);
  };
  drop(x, y, 1, ids);
  drop(plain_x, plain, 1, ids);
  drop(x, other, 2, ids);
  drop(x, swapped, 1, ids_swapped);
  kernels.dropout(x, other_seed, {0, 2}, 0.3f, 6, 1, 99, ids, false);
  double kept = 0, same_as_other = 0, same_as_seed = 0, same_samples = 0;
  y.for_each([&](auto n, auto c, auto i) {
    ASSERT_TRUE(y.get(n, c, i) == 0 || y.get(n, c, i) == 1 / (1 - 0.3f));
    ASSERT_EQ(y.get(n, c, i), plain.get(n, c, i));
    ASSERT_EQ(y.get(n, c, i), swapped.get(1 - n, c, i));
    kept += y.get(n, c, i) > 0;
    same_as_other += y.get(n, c, i) == other.get(n, c, i);
    same_as_seed += y.get(n, c, i) == other_seed.get(n, c, i);
    same_samples += y.get(0, c, i) == y.get(1, c, i);
  });
  const double count = static_cast<double>(shape.elements()), independent = 0.7 * 0.7 + 0.3 * 0.3;
  EXPECT_NEAR(kept / count, 0.7, 0.015);
  EXPECT_NEAR(same_as_other / count, independent, 0.02);
  EXPECT_NEAR(same_as_seed / count, independent, 0.02);
  EXPECT_NEAR(same_samples / count, independent, 0.02);
  EXPECT_TRUE(y.padding_is_clean());

  Array sum(shape, layout);
  for (int k = 0; k < 2; ++k) kernels.dropout(x, sum, {0, 2}, 0.3f, 5, 1, 99, ids, true);
  sum.for_each([&](auto n, auto c, auto i) { ASSERT_EQ(sum.get(n, c, i), 2 * y.get(n, c, i)); });
  kernels.dropout(x, y, {0, 2}, 0, 5, 1, 99, ids, false);
  EXPECT_TRUE(y.same_bytes(x));
}

TEST_P(ElementwiseTest, GlobalAverageAndItsGradient) {
  Array x = make(1), y(Shape{kN, 6}, Layout::channels_first), dy(Shape{kN, 6}, Layout::channels_first);
  dy.fill(2);
  kernels.global_average(x, y, {0, kN});
  y.for_each([&](auto n, auto c, auto) {
    double sum = 0;
    for (std::int64_t i = 0; i < x.spatial(); ++i) sum += x.get(n, c, i);
    expect_close(y.get(n, c, 0), sum / static_cast<double>(x.spatial()), 1e-6, 1e-7, "y");
  });
  for (const bool accumulate : {false, true}) {
    Array dx = make(3), before = make(3);
    if (!accumulate) dx.poison_padding();
    kernels.global_average_backward(dy, dx, {0, kN}, accumulate);
    dx.for_each([&](auto n, auto c, auto i) {
      const double want = dy.get(n, c, 0) / static_cast<double>(x.spatial());
      expect_close(dx.get(n, c, i), want + (accumulate ? before.get(n, c, i) : 0.0), 1e-6, 1e-7, "dx");
    });
    EXPECT_TRUE(dx.padding_is_clean());
  }
}

TEST_P(ElementwiseTest, LooksUpThePixelsOfEachChannel) {
  Array y(kShape, layout);
  y.fill(2).poison_padding();
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(kShape.elements()));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 + i / 60);
  std::vector<float> values(static_cast<std::size_t>(256 * y.c()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5f + 1;
  for (std::int64_t n = 0; n < kN; ++n) kernels.look_up(bytes.data(), values.data(), y, {n, n + 1});
  y.for_each([&](auto n, auto c, auto i) {
    const std::uint8_t byte = bytes[(n * y.c() + c) * y.spatial() + i];
    ASSERT_EQ(y.get(n, c, i), values[256 * c + byte]);
  });
  EXPECT_TRUE(y.padding_is_clean());
}

TEST_P(ElementwiseTest, ReorderIntoEveryLayoutAndFlattenThereAndBack) {
  Array x = make(1);
  for (const Layout other : all_layouts()) {
    Array y(kShape, other), sum(kShape, other);
    y.fill(2).poison_padding();
    sum.fill(2);
    Array before(kShape, other);
    before.fill(2);
    kernels.reorder(x, y, {0, kN}, false);
    kernels.reorder(x, sum, {0, kN}, true);
    y.for_each([&](auto n, auto c, auto i) {
      ASSERT_EQ(y.get(n, c, i), x.get(n, c, i));
      ASSERT_EQ(sum.get(n, c, i), static_cast<float>(before.get(n, c, i)) + static_cast<float>(x.get(n, c, i)));
    });
    EXPECT_TRUE(y.padding_is_clean());

    const std::int64_t features = x.c() * x.spatial();
    Array flat(Shape{kN, features}, other), back(kShape, layout);
    flat.poison_padding(), back.poison_padding();
    kernels.reorder(x, flat, {0, kN}, false);
    x.for_each([&](auto n, auto c, auto i) { ASSERT_EQ(flat.get(n, c * x.spatial() + i, 0), x.get(n, c, i)); });
    EXPECT_TRUE(flat.padding_is_clean());
    kernels.reorder(flat, back, {0, kN}, false);
    EXPECT_TRUE(back.same_bytes(x));
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, ElementwiseTest, ::testing::ValuesIn(all_layouts()),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST(Backend, DescribesItselfAndPrefersPlainImages) {
  const auto backend = ops::make_cpu_backend();
  EXPECT_NE(backend->description().find("oneDNN"), std::string::npos);
  EXPECT_EQ(backend->preferred_layout(3), Layout::channels_first);
#if defined(__x86_64__)
  EXPECT_GT(block_of(backend->preferred_layout(6)), 1);
#else  // where blocked activations have no fast convolutions
  EXPECT_EQ(backend->preferred_layout(6), Layout::channels_first);
#endif
}

}  // namespace
}  // namespace syncbn::testing
