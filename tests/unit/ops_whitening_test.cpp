// The CPU's whitening sweeps against their definition in f64.

#include <gtest/gtest.h>

#include "support/ops_support.hpp"

namespace syncbn::test {
namespace {

using syncbn::testing::all_layouts;
using syncbn::testing::Array;
using syncbn::testing::expect_close;

constexpr std::int64_t kSamples = 3;

/// Widths around the tiles of the kernels, positions around their vectors.
struct Sizes {
  std::int64_t channels, width, positions;
};
const Sizes kSizes[] = {{4, 1, 5}, {6, 3, 1}, {8, 4, 16}, {10, 5, 7}, {32, 16, 37}, {9, 9, 64}};

std::vector<double> numbers(std::int64_t count, std::uint64_t seed) {
  std::vector<double> values;
  Random random(seed, Purpose::test);
  for (std::int64_t i = 0; i < count; ++i) values.push_back(random.normal());
  return values;
}

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

/// check(backend, sizes, shape, layout, flag) for all of them.
template <class Check>
void in_all_cases(Check check) {
  const auto backend = ops::make_cpu_backend();
  for (const Sizes& s : kSizes)
    for (const Layout layout : all_layouts())
      for (const bool flag : {false, true}) check(*backend, s, Shape{kSamples, s.channels, s.positions}, layout, flag);
}

TEST(OpsWhitening, ProductsAreTheirDefinition) {
  in_all_cases([](const ops::Backend& backend, const Sizes& s, const Shape& shape, Layout layout, bool symmetric) {
    Array a(shape, layout), other(shape, layout);
    a.fill(1, 0.5), other.fill(2);
    const Array& b = symmetric ? a : other;
    const std::vector<double> a_center = numbers(s.channels, 3),
                              b_center = symmetric ? a_center : numbers(s.channels, 4);
    std::vector<double> sum(at(s.channels), 1), products(at(s.channels * s.width), 2);
    backend.whitening().products(a, a_center.data(), b, symmetric ? a_center.data() : b_center.data(), {1, kSamples},
                                 s.width, sum.data(), products.data());
    for (std::int64_t c = 0; c < s.channels; ++c) {
      double want_sum = 1;
      std::vector<double> want(at(s.width), 2);
      for (std::int64_t n = 1; n < kSamples; ++n)
        for (std::int64_t i = 0; i < s.positions; ++i) {
          const double left = a.get(n, c, i) - a_center[at(c)];
          want_sum += left;
          for (std::int64_t j = 0; j < s.width; ++j) {
            const std::int64_t d = c - c % s.width + j;
            want[at(j)] += left * (b.get(n, d, i) - b_center[at(d)]);
          }
        }
      expect_close(sum[at(c)], want_sum, 1e-12, 1e-12, "sum");
      for (std::int64_t j = 0; j < s.width; ++j)
        expect_close(products[at(c * s.width + j)], want[at(j)], 1e-12, 1e-12, "product");
    }
  });
}

TEST(OpsWhitening, TransformsAreTheirDefinition) {
  in_all_cases([](const ops::Backend& backend, const Sizes& s, const Shape& shape, Layout layout, bool accumulate) {
    Array x(shape, layout), z(shape, layout), y(shape, layout);
    x.fill(1), z.fill(2), y.fill(3);
    if (!accumulate) y.poison_padding(1);  // sample 0 stays as it is
    Array before(shape, layout);
    before.fill(3);
    const auto center = numbers(s.channels, 4), shift = numbers(s.channels, 5),
               zero = std::vector<double>(at(s.channels));
    const auto m = numbers(s.channels * s.width, 6), k = numbers(s.channels * s.width, 7);
    backend.whitening().transform({{x, center.data(), m.data()}, {z, zero.data(), k.data()}}, shift.data(), y,
                                  {1, kSamples}, s.width, accumulate);
    EXPECT_TRUE(y.padding_is_clean());
    y.for_each([&](auto n, auto c, auto i) {
      double want = accumulate || n == 0 ? before.get(n, c, i) : 0;
      for (std::int64_t j = 0; n > 0 && j < s.width; ++j) {
        const std::int64_t d = c - c % s.width + j;
        want += m[at(c * s.width + j)] * (x.get(n, d, i) - center[at(d)]) + k[at(c * s.width + j)] * z.get(n, d, i);
      }
      expect_close(y.get(n, c, i), want + (n > 0 ? shift[at(c)] : 0), 1e-6, 1e-6, "y");
    });
  });
}

}  // namespace
}  // namespace syncbn::test
