// The kernels without state against the CPU's, which have an fp64 oracle of their own, or against plain loops.

#include <gtest/gtest.h>

#include <cmath>

#include "cuda/on_device.hpp"
#include "nn/loss.hpp"
#include "ops/cuda/adapters.cuh"
#include "ops/cuda/kernels.cuh"
#include "syncbn/core/error.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::test {
namespace {

namespace cuda = ops::cuda;
using cuda::Queue;

Values normal(std::int64_t count, std::uint64_t seed, DataType type = DataType::f32) {
  Random random(seed, Purpose::test);
  Values values(static_cast<std::size_t>(count));
  for (double& v : values) v = random.normal();
  return rounded_to(type, values);
}

std::vector<float> floats(std::size_t count, std::uint64_t seed) {
  const Values values = normal(static_cast<std::int64_t>(count), seed);
  return {values.begin(), values.end()};
}

void expect_near(const Values& got, const Values& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(want[i])) continue;
    ASSERT_LE(std::abs(got[i] - want[i]), tolerance * (1 + std::abs(want[i])))
        << what << "[" << i << "]: got " << got[i] << ", want " << want[i];
  }
}

double tolerance_of(DataType type) {
  return type == DataType::f32 ? 2e-6 : type == DataType::f16 ? 1e-3 : 8e-3;
}

class CudaKernels : public ::testing::TestWithParam<std::tuple<Layout, DataType>> {
 protected:
  CudaKernels() { std::tie(layout, type) = GetParam(); }
  DeviceTensor on_device(const Shape& shape, const Values& values) { return {queue, shape, type, layout, values}; }
  DeviceTensor on_device(const Shape& shape) { return {queue, shape, type, layout}; }
  HostTensor on_host(const Shape& shape, const Values& values) {
    return {shape, DataType::f32, Layout::channels_first, values};
  }
  HostTensor on_host(const Shape& shape) { return {shape, DataType::f32, Layout::channels_first}; }

  Layout layout;
  DataType type;
  Queue queue{0};
  std::unique_ptr<ops::Backend> cpu = ops::make_cpu_backend();
  const std::vector<Shape> shapes = {{3, 8, 5, 4}, {2, 3, 7, 3}, {3, 16}};
};

TEST_P(CudaKernels, ActivationsEqualTheCpu) {
  for (const Shape& shape : shapes) {
    Values x = normal(shape.elements(), 1, type);
    x[1] = std::numeric_limits<double>::quiet_NaN(), x[2] = 0;
    const Values dy = normal(shape.elements(), 2, type), there = normal(shape.elements(), 3, type);
    const auto all = shape.n();
    for (const auto kind :
         {ops::Activation::relu, ops::Activation::leaky_relu, ops::Activation::sigmoid, ops::Activation::tanh}) {
      const HostTensor cx = on_host(shape, x), cy = on_host(shape), cdy = on_host(shape, dy),
                       cdx = on_host(shape, there);
      cpu->elementwise().activate(kind, 0.1F, cx.view(), cy.view(), {0, all});
      DeviceTensor gx = on_device(shape, x), gy = on_device(shape), gdy = on_device(shape, dy);
      DeviceTensor gdx = on_device(shape, there);
      cuda::activate(queue, kind, 0.1F, gx, gy, all);
      expect_near(gy.get(), cy.get(), tolerance_of(type), "y");
      // Both derivatives from the same y.
      const HostTensor rounded = on_host(shape, gy.get());
      cpu->elementwise().activate_backward(kind, 0.1F, rounded.view(), cdy.view(), cdx.view(), {0, all}, true);
      cuda::activate_backward(queue, kind, 0.1F, gy, gdy, gdx, all, true);
      expect_near(gdx.get(), cdx.get(), tolerance_of(type), "dx");
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CudaKernels, AddsAndCopies) {
  for (const Shape& shape : shapes) {
    const Values a = normal(shape.elements(), 1, type), b = normal(shape.elements(), 2, type);
    Values sum = a;
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b[i];
    DeviceTensor ga = on_device(shape, a), gb = on_device(shape, b), gy = on_device(shape);
    cuda::add(queue, ga, gb, gy, shape.n());
    EXPECT_EQ(gy.get(), rounded_to(type, sum));
    cuda::copy(queue, ga, gy, shape.n(), false);
    EXPECT_EQ(gy.get(), a);
    cuda::copy(queue, gb, gy, shape.n(), true);
    EXPECT_EQ(gy.get(), rounded_to(type, sum));
    cuda::copy(queue, ga, gy, 0, false);
    EXPECT_EQ(gy.get(), rounded_to(type, sum));
  }
}

TEST_P(CudaKernels, DropsTheSameValuesAsTheCpu) {
  for (const Shape& shape : {Shape{3, 8, 5, 4}, Shape{2, 3, 7, 3}, Shape{3, 1, 1, 1}}) {
    const Values x = normal(shape.elements(), 1, type);
    const std::vector<std::int64_t> ids = {7, 123456789012, 0};
    const HostTensor cx = on_host(shape, x), cy = on_host(shape);
    cpu->elementwise().dropout(cx.view(), cy.view(), {0, shape.n()}, 0.3F, 11, 5, 99, ids.data(), false);
    DeviceTensor gx = on_device(shape, x), gy = on_device(shape);
    const DeviceArray<std::int64_t> device_ids(queue, ids);
    cuda::dropout(queue, gx, gy, shape.n(), 0.3F, 11, 5, 99, device_ids.data(), false);
    EXPECT_EQ(gy.get(), rounded_to(type, cy.get()));
  }
}

TEST_P(CudaKernels, GlobalAverageEqualsTheCpu) {
  const Shape shape{3, 24, 5, 4}, row{3, 24};
  const Values x = normal(shape.elements(), 1, type), dy = normal(row.elements(), 2, type);
  const Values there = normal(shape.elements(), 3, type);
  const HostTensor cx = on_host(shape, x), cy = on_host(row), cdy = on_host(row, dy), cdx = on_host(shape, there);
  cpu->elementwise().global_average(cx.view(), cy.view(), {0, 3});
  cpu->elementwise().global_average_backward(cdy.view(), cdx.view(), {0, 3}, true);
  DeviceTensor gx = on_device(shape, x), gy = on_device(row), gdy = on_device(row, dy), gdx = on_device(shape, there);
  cuda::global_average(queue, gx, gy, 3);
  expect_near(gy.get(), cy.get(), tolerance_of(type), "y");
  cuda::global_average_backward(queue, gdy, gdx, 3, true);
  expect_near(gdx.get(), cdx.get(), tolerance_of(type), "dx");
}

TEST_P(CudaKernels, AddsBiasesAndTheirGradients) {
  // The last ones are shared out among several blocks.
  for (const Shape& shape :
       {Shape{3, 40, 5, 4}, Shape{3, 10}, Shape{6, 64, 20, 18}, Shape{40, 3, 9, 11}, Shape{500, 10}}) {
    const Values y = normal(shape.elements(), 1, type);
    const std::vector<float> bias = floats(static_cast<std::size_t>(shape.c()), 2);
    DeviceTensor gy = on_device(shape, y);
    const DeviceArray<float> device_bias(queue, bias), d_bias(queue, bias), again(queue, bias);
    cuda::add_bias_gradient(queue, gy, shape.n(), d_bias.data());
    cuda::add_bias_gradient(queue, gy, shape.n(), again.data());
    cuda::add_bias(queue, device_bias.data(), gy, shape.n());
    Values want = y, want_gradient(bias.begin(), bias.end());
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t c = i / static_cast<std::size_t>(shape.spatial()) % bias.size();
      want[i] += bias[c];
      want_gradient[c] += y[i];
    }
    EXPECT_EQ(gy.get(), rounded_to(type, rounded_to(DataType::f32, want)));
    const auto got = d_bias.get();
    expect_near({got.begin(), got.end()}, want_gradient, 5e-6, "d_bias");
    EXPECT_EQ(again.get(), got);
    if (HasFatalFailure()) return;
  }
}

TEST_P(CudaKernels, LooksUpPixels) {
  const Shape shape{3, 3, 5, 4};
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 37 + i / 60);
  const Values table = normal(3 * 256, 1, type);
  const std::vector<float> values(table.begin(), table.end());
  cuda::DeviceMemory there(queue, bytes.size()), values_there(queue, values.size() * sizeof(float));
  queue.upload(there.as<void>(), bytes.data(), bytes.size());
  queue.upload(values_there.as<void>(), values.data(), values.size() * sizeof(float));
  DeviceTensor y(queue, shape, type, layout);
  cuda::look_up(queue, there.as<std::uint8_t>(), values_there.as<float>(), y, 3);
  Values want;
  for (std::size_t i = 0; i < bytes.size(); ++i) want.push_back(table[i / 20 % 3 * 256 + bytes[i]]);
  EXPECT_EQ(y.get(), want);
}

TEST_P(CudaKernels, ReordersAndFlattens) {
  const Shape shape{3, 6, 5, 4}, row{3, 120};
  const Values x = normal(shape.elements(), 1, type);
  DeviceTensor from = on_device(shape, x), flat = on_device(row), back = on_device(shape);
  for (const Layout other : {Layout::channels_first, Layout::channels_last}) {
    DeviceTensor to(queue, shape, type, other);
    cuda::reorder(queue, from, to, 3, false);
    EXPECT_EQ(to.get(), x);
  }
  cuda::reorder(queue, from, flat, 3, false);
  EXPECT_EQ(flat.get(), x);
  cuda::reorder(queue, flat, back, 3, false);
  EXPECT_EQ(back.get(), x);
  DeviceTensor wide(queue, shape, DataType::f32, layout);
  cuda::reorder(queue, from, wide, 3, false);
  EXPECT_EQ(wide.get(), x);
  cuda::reorder(queue, from, wide, 3, true);
  Values twice = x;
  for (double& v : twice) v *= 2;
  EXPECT_EQ(wide.get(), twice);
}

/// The sums in the order of the windows: of an input's from the last to the first.
struct PlainPool {
  Values y, dx;
  PlainPool(const ops::PoolGeometry& g, const Values& x, const Values& dy, const Values& there) : dx(there) {
    const bool max = g.kind == ops::PoolKind::max;
    const auto area = static_cast<float>(g.kernel * g.kernel);
    std::vector<float> sums(x.size());
    y.resize(dy.size());
    for (auto o = static_cast<std::int64_t>(dy.size()) - 1; o >= 0; --o) {
      const std::int64_t plane = o / (g.h_out * g.w_out) * g.h_in * g.w_in;
      const std::int64_t top = o / g.w_out % g.h_out * g.stride - g.padding, left = o % g.w_out * g.stride - g.padding;
      float sum = 0;
      std::int64_t best = -1;
      std::vector<std::int64_t> inside;
      for (std::int64_t h = top; h < top + g.kernel; ++h) {
        for (std::int64_t w = left; w < left + g.kernel; ++w) {
          if (h < 0 || h >= g.h_in || w < 0 || w >= g.w_in) continue;
          const std::int64_t i = plane + h * g.w_in + w;
          const double value = at(x, i);
          inside.push_back(i);
          sum += static_cast<float>(value);
          // The first of equals; a NaN wins.
          if (best < 0 || value > at(x, best) || (std::isnan(value) && !std::isnan(at(x, best)))) best = i;
        }
      }
      y[static_cast<std::size_t>(o)] = max ? at(x, best) : sum / area;
      if (max) inside = {best};
      for (const std::int64_t i : inside) sums[static_cast<std::size_t>(i)] += static_cast<float>(at(dy, o));
    }
    for (std::size_t i = 0; i < dx.size(); ++i) dx[i] = static_cast<float>(dx[i]) + (max ? sums[i] : sums[i] / area);
  }
  static double at(const Values& values, std::int64_t i) { return values[static_cast<std::size_t>(i)]; }
};

TEST_P(CudaKernels, PoolingEqualsPlainLoops) {
  struct Window {
    std::int64_t kernel, stride, padding;
  };
  for (const auto kind : {ops::PoolKind::max, ops::PoolKind::average}) {
    for (const auto& [kernel, stride, padding] : {Window{3, 1, 1}, Window{3, 2, 1}, Window{2, 2, 0}, Window{2, 3, 1},
                                                  Window{5, 2, 2}, Window{1, 1, 0}, Window{6, 1, 0}}) {
      for (const std::int64_t c : {8, 3}) {
        const ops::PoolGeometry g{
            kind,   c,      9,      6, (9 + 2 * padding - kernel) / stride + 1, (6 + 2 * padding - kernel) / stride + 1,
            kernel, stride, padding};
        const Shape in{3, g.c, g.h_in, g.w_in}, out{3, g.c, g.h_out, g.w_out};
        Values x = normal(in.elements(), 1, type);
        x[5] = x[6] = x[11] = x[12] = 7;  // of equals the first
        x[40] = x[x.size() - 9] = std::numeric_limits<double>::quiet_NaN();
        const Values dy = normal(out.elements(), 2, type), there = normal(in.elements(), 3, type);
        const PlainPool want(g, x, dy, there);
        DeviceTensor gx = on_device(in, x), gy = on_device(out), gdy = on_device(out, dy), gdx = on_device(in, there);
        const DeviceArray<std::uint8_t> places(queue, static_cast<std::size_t>(out.elements()));
        cuda::pool(queue, g, gx, gy, places.data(), 3);
        cuda::pool_backward(queue, g, gdy, gdx, places.data(), 3, true);
        expect_near(gy.get(), rounded_to(type, want.y), 0, "y");
        expect_near(gdx.get(), rounded_to(type, want.dx), 0, "dx");
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(CudaKernels, PoolingEqualsTheCpu) {
  for (const auto kind : {ops::PoolKind::max, ops::PoolKind::average}) {
    for (const std::int64_t stride : {1, 2}) {
      const ops::PoolGeometry g{kind, 8, 7, 6, (7 + 2 - 3) / stride + 1, (6 + 2 - 3) / stride + 1, 3, stride, 1};
      const Shape in{3, g.c, g.h_in, g.w_in}, out{3, g.c, g.h_out, g.w_out};
      const Values x = normal(in.elements(), 1, type), dy = normal(out.elements(), 2, type);
      const Values there = normal(in.elements(), 3, type);
      const auto cpu_pool = cpu->pool(g);
      const Layout blocked = cpu->preferred_layout(g.c);
      const HostTensor cx(in, DataType::f32, blocked, x), cy(out, DataType::f32, blocked);
      const HostTensor cdy(out, DataType::f32, blocked, dy), cdx(in, DataType::f32, blocked, there);
      Buffer workspace(static_cast<std::size_t>(3 * cpu_pool->workspace_bytes_per_sample()));
      cpu_pool->forward(cx.view(), cy.view(), workspace.as<std::uint8_t>(), {0, 3});
      cpu_pool->backward(cdy.view(), cdx.view(), workspace.as<std::uint8_t>(), {0, 3}, true);
      DeviceTensor gx = on_device(in, x), gy = on_device(out), gdy = on_device(out, dy), gdx = on_device(in, there);
      const DeviceArray<std::uint8_t> places(queue, static_cast<std::size_t>(out.elements()));
      cuda::pool(queue, g, gx, gy, places.data(), 3);
      expect_near(gy.get(), cy.get(), tolerance_of(type), "y");
      cuda::pool_backward(queue, g, gdy, gdx, places.data(), 3, true);
      expect_near(gdx.get(), cdx.get(), 4 * tolerance_of(type), "dx");
      if (HasFatalFailure()) return;
    }
  }
}

/// A tensor that is described, but not there.
TEST_P(CudaKernels, RefuseWhatTheyCannotCount) {
  Tensor huge;
  huge.shape = {1 << 20, 3, 32, 32};
  huge.type = type;
  huge.layout = layout;
  const ops::PoolGeometry g{ops::PoolKind::average, 3, 32, 32, 32, 32, 1, 1, 0};
  EXPECT_THROW(cuda::reorder(queue, huge, huge, huge.shape.n(), false), DeviceError);
  EXPECT_THROW(cuda::pool(queue, g, huge, huge, nullptr, huge.shape.n()), DeviceError);
  EXPECT_THROW(cuda::pool_backward(queue, g, huge, huge, nullptr, huge.shape.n(), false), DeviceError);
}

INSTANTIATE_TEST_SUITE_P(All, CudaKernels,
                         ::testing::Combine(::testing::Values(Layout::channels_first, Layout::channels_last),
                                            ::testing::Values(DataType::f32, DataType::f16, DataType::bf16)),
                         [](const auto& test) {
                           return std::string(name_of(std::get<0>(test.param))) + "_" +
                                  name_of(std::get<1>(test.param));
                         });

TEST(CudaPool, RefusesWindowsWhosePlacesDoNotFitIntoAByte) {
  ops::cuda::Queue queue(0);
  ops::PoolGeometry g{ops::PoolKind::max, 1, 17, 17, 1, 1, 17, 1, 0};
  EXPECT_THROW(ops::cuda::make_pool(queue, g), Error);
  g.kind = ops::PoolKind::average;
  EXPECT_NO_THROW(ops::cuda::make_pool(queue, g));
  g = {ops::PoolKind::max, 1, 16, 16, 1, 1, 16, 1, 0};
  EXPECT_NO_THROW(ops::cuda::make_pool(queue, g));
}

TEST(CudaLoss, EqualsTheCpu) {
  Queue queue(0);
  for (const std::int64_t classes : {2, 10, 100, 1000}) {
    const Shape shape{5, classes};
    Values z = normal(shape.elements(), 4);
    z[0] = z[1] = 9;  // of equals the first
    z[static_cast<std::size_t>(3 * classes + 1)] = std::numeric_limits<double>::quiet_NaN();
    const std::vector<int> labels = {0, 1, static_cast<int>(classes) - 1, 1, 0};
    const HostTensor cz(shape, DataType::f32, Layout::channels_first, z),
        cd(shape, DataType::f32, Layout::channels_first);
    const DeviceArray<int> device_labels(queue, labels);
    for (const double smoothing : {0.0, 0.1}) {
      DeviceTensor gz(queue, shape, DataType::f32, Layout::channels_first, z);
      DeviceTensor gd(queue, shape, DataType::f32, Layout::channels_first);
      const DeviceArray<double> result(queue, 2);
      for (const std::int64_t n : {0, 3, 5}) {
        const std::span<const int> some(labels.data(), static_cast<std::size_t>(n));
        const LossResult want = softmax_cross_entropy(cz.view(), some, smoothing, 0.25, cd.view());
        result.set({0, 0});
        cuda::softmax_loss(queue, gz, device_labels.data(), n, smoothing, 0.25, gd, result.data());
        const auto got = result.get();
        expect_near({got[0]}, {want.loss_sum}, 1e-12, "loss");
        EXPECT_EQ(got[1], static_cast<double>(want.correct)) << "n " << n << " classes " << classes;
      }
      expect_near(gd.get(), cd.get(), 1e-7, "d_logits");
    }
  }
}

TEST(CudaFlat, SumsOfGradientsAndOfTheProcessors) {
  Queue queue(0);
  for (const std::size_t count : {std::size_t{1}, std::size_t{255}, std::size_t{100000}}) {
    const std::vector<float> a = floats(count, 1), b = floats(count, 2);
    const DeviceArray<float> left(queue, a), right(queue, b), to(queue, count);
    cuda::add_flat(queue, left.data(), right.data(), to.data(), static_cast<std::int64_t>(count));
    std::vector<float> want = a;
    for (std::size_t i = 0; i < count; ++i) want[i] += b[i];
    EXPECT_EQ(to.get(), want);

    const DeviceArray<double> values(queue, std::vector<double>(b.begin(), b.end()));
    cuda::blend(queue, values.data(), 0.25, 3, left.data(), static_cast<std::int64_t>(count));
    for (std::size_t i = 0; i < count; ++i) want[i] = static_cast<float>(0.25 * a[i] + 3.0 * b[i]);
    EXPECT_EQ(left.get(), want);
  }
}

// More of them than one launch takes, of unequal lengths.
TEST(CudaFlat, UpdatesRunningStatistics) {
  Queue queue(0);
  constexpr std::size_t kMost = 700;
  const std::vector<float> contribution = floats(kMost, 1), before = floats(kMost * 130, 2);
  const DeviceArray<float> kept(queue, std::vector<float>{0.75F}), from(queue, contribution), running(queue, before);
  std::vector<ops::Device::Running> all;
  std::vector<float> want = before;
  for (std::size_t k = 0; k < 130; ++k) {
    const std::size_t count = k * 5;
    all.push_back({kept.data(), from.data(), running.data() + k * kMost, static_cast<std::int64_t>(count)});
    for (std::size_t i = 0; i < count; ++i) want[k * kMost + i] = 0.75F * want[k * kMost + i] + contribution[i];
  }
  cuda::update_running(queue, all);
  EXPECT_EQ(running.get(), want);
}

TEST(CudaFlat, AddsRowsInTheOrderOfThePairs) {
  Queue queue(0);
  constexpr std::int64_t kRows = 9, kStride = 96, kCount = 65;
  std::vector<double> values(kRows * kStride);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i)) * std::pow(10.0, i % 17);
  // More pairs than one launch takes; row 3 is read and written in turn.
  std::vector<std::pair<int, int>> pairs;
  for (int i = 0; i < 300; ++i) pairs.emplace_back(i % 3 == 0 ? 3 : i % kRows, i % 3 == 0 ? (i / 3) % 3 : 3);
  const DeviceArray<double> rows(queue, values);
  cuda::add_rows(queue, rows.data(), kStride, pairs, kCount);
  for (const auto& [into, from] : pairs)
    for (std::int64_t i = 0; i < kCount; ++i)
      values[static_cast<std::size_t>(into * kStride + i)] += values[static_cast<std::size_t>(from * kStride + i)];
  EXPECT_EQ(rows.get(), values);
}

}  // namespace
}  // namespace syncbn::test
