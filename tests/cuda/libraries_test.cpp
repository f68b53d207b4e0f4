// Convolutions and linear layers by cuDNN and cuBLASLt against the CPU's.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "cuda/on_device.hpp"
#include "ops/cuda/adapters.cuh"
#include "syncbn/core/random.hpp"

namespace syncbn::test {
namespace {

namespace cuda = ops::cuda;
using cuda::Queue;
using ops::Precision;

Values normal(std::int64_t count, std::uint64_t seed, DataType type) {
  Random random(seed, Purpose::test);
  Values values(static_cast<std::size_t>(count));
  for (double& v : values) v = random.normal();
  return rounded_to(type, values);
}

/// Against the root mean square of what is wanted: a sum may be near 0 while its terms are not.
double difference(const Values& got, const Values& want) {
  double squares = 0, differences = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    squares += want[i] * want[i];
    differences += (got[i] - want[i]) * (got[i] - want[i]);
  }
  return std::sqrt(differences / squares);
}

std::vector<float> floats(const Values& values) {
  return {values.begin(), values.end()};
}
Values doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

struct Case {
  Precision precision;
  double tolerance;
  const char* name;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }
};

class CudaLibraries : public ::testing::TestWithParam<Case> {
 protected:
  Queue queue{0};
  cuda::Libraries libraries{queue};
  std::unique_ptr<ops::Backend> cpu = ops::make_cpu_backend();
  const DataType type = GetParam().precision.type;
  double largest_difference = 0;

  void expect_near(const Values& got, const Values& want, const std::string& what) {
    ASSERT_EQ(got.size(), want.size()) << what;
    const double found = difference(got, want);
    EXPECT_LE(found, GetParam().tolerance) << what;
    largest_difference = std::max(largest_difference, found);
  }
  /// What has been compared has not been computed in f32 instead.
  void expect_rounding() const {
    // A device need not round to TF32 where it may; the stand-in does.
    const bool f32 = type == DataType::f32 && (!GetParam().precision.tf32 || std::getenv("SYNCBN_EXPECT_CUDA"));
    EXPECT_TRUE(f32 || largest_difference > GetParam().tolerance / 20) << largest_difference;
  }
};

TEST_P(CudaLibraries, ConvolutionEqualsTheCpu) {
  const ops::Conv2dGeometry geometries[] = {{3, 12, 10, 16, 12, 10, 3, 3, 1, 1, true},
                                            {16, 12, 12, 32, 6, 6, 3, 3, 2, 1, false},
                                            {32, 8, 8, 64, 8, 8, 1, 1, 1, 0, false},
                                            {32, 8, 8, 64, 4, 4, 1, 1, 2, 0, false},
                                            {3, 32, 32, 64, 16, 16, 7, 7, 2, 3, false}};
  constexpr std::int64_t kN = 3;
  for (const auto& g : geometries) {
    SCOPED_TRACE(std::to_string(g.c_in) + " -> " + std::to_string(g.c_out));
    const Shape in{kN, g.c_in, g.h_in, g.w_in}, out{kN, g.c_out, g.h_out, g.w_out};
    const Shape filter{g.c_out, g.c_in, g.kernel_h, g.kernel_w};
    const Values x = normal(in.elements(), 1, type), dy = normal(out.elements(), 2, type);
    const Values w = normal(filter.elements(), 3, type), b = normal(g.c_out, 4, DataType::f32);
    const Values there = normal(in.elements(), 5, type);

    const Layout in_layout = cpu->preferred_layout(g.c_in), out_layout = cpu->preferred_layout(g.c_out);
    const HostTensor cx(in, DataType::f32, in_layout, x), cdy(out, DataType::f32, out_layout, dy);
    const HostTensor cy(out, DataType::f32, out_layout), cdx(in, DataType::f32, in_layout, there);
    const auto cpu_conv = cpu->conv2d(g);
    const auto cpu_weights = cpu->conv2d_weights(g);
    const std::vector<float> weight = floats(w), bias = floats(b);
    std::vector<float> d_weight(weight.size(), 1), d_bias(bias.size(), 1);
    cpu_weights->pack(weight.data());
    cpu_conv->forward(cx.view(), *cpu_weights, g.bias ? bias.data() : nullptr, cy.view(), {0, kN});
    cpu_conv->backward_data(cdy.view(), *cpu_weights, cdx.view(), {0, kN}, true);
    std::vector<float> packed_gradient(weight.size(), 1);
    cpu_conv->backward_weights(cx.view(), cdy.view(), kN, packed_gradient.data(), d_bias.data(), true);
    cpu_weights->unpack_gradient(packed_gradient.data(), d_weight.data());

    const auto conv = cuda::make_conv2d(libraries, g, GetParam().precision);
    const auto packed = cuda::make_conv2d_weights(queue, g, type);
    DeviceTensor gx(queue, in, type, Layout::channels_last, x), gdy(queue, out, type, Layout::channels_last, dy);
    DeviceTensor gy(queue, out, type, Layout::channels_last), gdx(queue, in, type, Layout::channels_last, there);
    const DeviceArray<float> device_weight(queue, weight), device_bias(queue, bias);
    const DeviceArray<float> device_d_weight(queue, std::vector<float>(weight.size(), 1));
    const DeviceArray<float> device_d_bias(queue, std::vector<float>(bias.size(), 1));
    packed->pack(device_weight.data());
    conv->forward(gx, *packed, g.bias ? device_bias.data() : nullptr, gy, {0, kN});
    conv->backward_data(gdy, *packed, gdx, {0, kN}, true);
    conv->backward_weights(gx, gdy, kN, device_d_weight.data(), g.bias ? device_d_bias.data() : nullptr, true);
    expect_near(gy.get(), cy.get(), "y");
    expect_near(gdx.get(), cdx.get(), "dx");
    expect_near(doubles(device_d_weight.get()), doubles(d_weight), "d_weight");
    if (g.bias) expect_near(doubles(device_d_bias.get()), doubles(d_bias), "d_bias");

    // The same bits again, and nothing for no samples.
    const Values first = gy.get();
    const std::vector<float> d_first = device_d_weight.get();
    conv->forward(gx, *packed, g.bias ? device_bias.data() : nullptr, gy, {0, kN});
    EXPECT_EQ(gy.get(), first);
    device_d_weight.set(std::vector<float>(weight.size(), 1));
    conv->backward_weights(gx, gdy, kN, device_d_weight.data(), nullptr, true);
    conv->backward_weights(gx, gdy, 0, device_d_weight.data(), nullptr, true);
    EXPECT_EQ(device_d_weight.get(), d_first);
  }
  expect_rounding();
}

TEST_P(CudaLibraries, LinearEqualsTheCpu) {
  for (const auto& [in, out, n] : std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t>>{
           {64, 10, 5}, {784, 256, 32}, {30, 7, 1}, {2048, 1000, 16}}) {
    SCOPED_TRACE(std::to_string(in) + " -> " + std::to_string(out));
    const Shape x_shape{n, in}, y_shape{n, out};
    const Values x = normal(n * in, 1, type), dy = normal(n * out, 2, type), w = normal(in * out, 3, type);
    const Values b = normal(out, 4, DataType::f32), there = normal(n * in, 5, type);
    const HostTensor cx(x_shape, DataType::f32, Layout::channels_first, x);
    const HostTensor cdy(y_shape, DataType::f32, Layout::channels_first, dy);
    const HostTensor cy(y_shape, DataType::f32, Layout::channels_first);
    const HostTensor cdx(x_shape, DataType::f32, Layout::channels_first, there);
    const std::vector<float> weight = floats(w), bias = floats(b);
    std::vector<float> d_weight(weight.size(), 1), d_bias(bias.size(), 1);
    const auto cpu_linear = cpu->linear(in, out, true);
    cpu_linear->forward(cx.view(), weight.data(), bias.data(), cy.view(), n);
    cpu_linear->backward_data(cdy.view(), weight.data(), cdx.view(), n, true);
    cpu_linear->backward_weights(cx.view(), cdy.view(), n, d_weight.data(), d_bias.data(), true);

    const auto linear = cuda::make_linear(libraries, in, out, GetParam().precision);
    DeviceTensor gx(queue, x_shape, type, Layout::channels_first, x),
        gdy(queue, y_shape, type, Layout::channels_first, dy);
    DeviceTensor gy(queue, y_shape, type, Layout::channels_first);
    DeviceTensor gdx(queue, x_shape, type, Layout::channels_first, there);
    DeviceTensor device_weight(queue, {out, in}, type, Layout::channels_first, w);
    const DeviceArray<float> device_bias(queue, bias);
    const DeviceArray<float> device_d_weight(queue, std::vector<float>(weight.size(), 1));
    const DeviceArray<float> device_d_bias(queue, std::vector<float>(bias.size(), 1));
    linear->forward(gx, device_weight.view().data, device_bias.data(), gy, n);
    linear->backward_data(gdy, device_weight.view().data, gdx, n, true);
    linear->backward_weights(gx, gdy, n, device_d_weight.data(), device_d_bias.data(), true);
    expect_near(gy.get(), cy.get(), "y");
    expect_near(gdx.get(), cdx.get(), "dx");
    expect_near(doubles(device_d_weight.get()), doubles(d_weight), "d_weight");
    expect_near(doubles(device_d_bias.get()), doubles(d_bias), "d_bias");
    // Narrow factors, but sums and gradients of weights in f32.
    const double in_f32 = GetParam().precision.tf32 ? GetParam().tolerance : 2e-5;
    EXPECT_LE(difference(doubles(device_d_weight.get()), doubles(d_weight)), in_f32);
  }
  expect_rounding();
}

// Transforms (Winograd) are allowed for f32.
constexpr Case kCases[] = {{{DataType::f32, false}, 2e-5, "f32"},
                           {{DataType::f32, true}, 2e-3, "tf32"},
                           {{DataType::f16, false}, 2e-3, "f16"},
                           {{DataType::bf16, false}, 1.5e-2, "bf16"}};

INSTANTIATE_TEST_SUITE_P(All, CudaLibraries, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace syncbn::test
