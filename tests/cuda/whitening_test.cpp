// The sweeps of whitening on a device against the CPU's, whose oracle is their definition.

#include <gtest/gtest.h>

#include <cmath>

#include "cuda/on_device.hpp"
#include "ops/cuda/adapters.cuh"
#include "syncbn/core/random.hpp"

namespace syncbn::test {
namespace {

namespace cuda = ops::cuda;

constexpr std::int64_t kSamples = 5;
constexpr ops::Samples kSome{1, kSamples};

Values normal(std::int64_t count, std::uint64_t seed, DataType type = DataType::f64) {
  Random random(seed, Purpose::test);
  Values values(static_cast<std::size_t>(count));
  for (double& v : values) v = random.normal();
  return type == DataType::f64 ? values : rounded_to(type, values);
}

void expect_near(const Values& got, const Values& want, double tolerance, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_LE(std::abs(got[i] - want[i]), tolerance * (1 + std::abs(want[i]))) << what << "[" << i << "]";
}

/// Widths around the tiles of the kernels, and positions for one and for several shares.
struct Sizes {
  std::int64_t channels, width;
  Shape shape;
};
const Sizes kSizes[] = {{4, 1, {kSamples, 4, 5, 1}},    {6, 3, {kSamples, 6}},
                        {10, 5, {kSamples, 10, 3, 4}},  {32, 16, {kSamples, 32, 27, 25}},
                        {34, 17, {kSamples, 34, 4, 3}}, {40, 40, {kSamples, 40, 3, 3}}};

class CudaWhitening : public ::testing::TestWithParam<std::tuple<Layout, DataType>> {
 protected:
  CudaWhitening() { std::tie(layout, type) = GetParam(); }
  Layout layout;
  DataType type;
  cuda::Queue queue{0};
  std::unique_ptr<ops::WhiteningKernels> device = cuda::make_whitening(queue);
  std::unique_ptr<ops::Backend> cpu = ops::make_cpu_backend();
};

TEST_P(CudaWhitening, ProductsEqualTheCpu) {
  for (const auto& [channels, width, shape] : kSizes) {
    SCOPED_TRACE(shape.str());
    const Values a = normal(shape.elements(), 1, type), b = normal(shape.elements(), 2, type);
    const Values a_center = normal(channels, 3), b_center = normal(channels, 4);
    const HostTensor ca(shape, DataType::f32, layout, a), cb(shape, DataType::f32, layout, b);
    const DeviceTensor ga(queue, shape, type, layout, a), gb(queue, shape, type, layout, b);
    Values want_sum(a_center.size(), 1), want(static_cast<std::size_t>(channels * width), 2);
    Values sum = want_sum, products = want;
    cpu->whitening().products(ca.view(), a_center.data(), cb.view(), b_center.data(), kSome, width, want_sum.data(),
                              want.data());
    device->products(ga, a_center.data(), gb, b_center.data(), kSome, width, sum.data(), products.data());
    expect_near(sum, want_sum, 1e-11, "sum");
    expect_near(products, want, 1e-11, "products");
    device->products(ga, a_center.data(), gb, b_center.data(), {2, 2}, width, sum.data(), products.data());
    expect_near(sum, want_sum, 1e-11, "sum after no samples");
  }
}

TEST_P(CudaWhitening, TransformsEqualTheCpu) {
  const double tolerance = type == DataType::f32 ? 1e-6 : type == DataType::f16 ? 2e-3 : 2e-2;
  for (const auto& [channels, width, shape] : kSizes) {
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(shape.str());
      const Values x = normal(shape.elements(), 1, type), z = normal(shape.elements(), 2, type);
      const Values before = normal(shape.elements(), 3, type), x_center = normal(channels, 4),
                   z_center = normal(channels, 5), shift = normal(channels, 6), m = normal(channels * width, 7),
                   k = normal(channels * width, 8);
      const HostTensor cx(shape, DataType::f32, layout, x), cz(shape, DataType::f32, layout, z),
          cy(shape, DataType::f32, layout, before);
      const DeviceTensor gx(queue, shape, type, layout, x), gz(queue, shape, type, layout, z);
      DeviceTensor gy(queue, shape, type, layout, before);
      cpu->whitening().transform({{cx.view(), x_center.data(), m.data()}, {cz.view(), z_center.data(), k.data()}},
                                 shift.data(), cy.view(), kSome, width, accumulate);
      device->transform({{gx, x_center.data(), m.data()}, {gz, z_center.data(), k.data()}}, shift.data(), gy, kSome,
                        width, accumulate);
      expect_near(gy.get(), cy.get(), tolerance * (type == DataType::f32 ? 1 : std::sqrt(width)), "two terms");
      if (accumulate) continue;
      cpu->whitening().transform({{cx.view(), x_center.data(), m.data()}}, shift.data(), cy.view(), kSome, width,
                                 false);
      device->transform({{gx, x_center.data(), m.data()}}, shift.data(), gy, kSome, width, false);
      expect_near(gy.get(), cy.get(), tolerance * (type == DataType::f32 ? 1 : std::sqrt(width)), "one term");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaWhitening,
                         ::testing::Combine(::testing::Values(Layout::channels_first, Layout::channels_last),
                                            ::testing::Values(DataType::f32, DataType::f16, DataType::bf16)));

}  // namespace
}  // namespace syncbn::test
