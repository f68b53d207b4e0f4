// Batch normalization on a device against the fp64 oracle, several workers on it.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <tuple>

#include "cuda/on_device.hpp"
#include "ops/cuda/batch_norm.cuh"
#include "support/batch_norm_oracle.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::test {
namespace {

using ops::FusedRelu;
using ops::cuda::BatchNorm;
using ops::cuda::Queue;

struct Tolerance {
  double relative, absolute;
};

Tolerance tolerance_of(DataType type) {
  if (type == DataType::f16) return {1e-3, 1e-3};
  if (type == DataType::bf16) return {1.6e-2, 1e-2};
  return {1.3e-6, 1e-5};
}

void expect_near(const Values& got, const Values& want, Tolerance tolerance, const char* what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(want[i]) && std::isnan(got[i])) continue;
    ASSERT_LE(std::abs(got[i] - want[i]), tolerance.relative * std::abs(want[i]) + tolerance.absolute)
        << what << "[" << i << "]: got " << got[i] << ", want " << want[i];
  }
}

Values normal(std::size_t count, std::uint64_t seed, double mean, double std, DataType type) {
  Random random(seed, Purpose::test);
  Values values(count);
  for (double& v : values) v = mean + std * random.normal();
  return rounded_to(type, values);
}

/// Some workers' inputs to one layer.
struct Problem {
  Layout layout;
  DataType type;
  std::int64_t channels;
  std::vector<Input> inputs;
  OracleRequest request;
  bool with_add = false;

  Problem(Layout layout_, DataType type_, const Shape& shape, const std::vector<std::int64_t>& samples, double mean,
          double std)
      : layout(layout_), type(type_), channels(shape.c()) {
    for (std::size_t w = 0; w < samples.size(); ++w) {
      Input input;
      input.shape = shape.with_n(samples[w]);
      const auto count = static_cast<std::size_t>(input.shape.elements());
      input.x = normal(count, 10 + w, mean, std, type);
      input.dy = normal(count, 20 + w, 0.25, 1, type);
      inputs.push_back(std::move(input));
    }
    Random random(5, Purpose::test);
    for (std::int64_t c = 0; c < channels; ++c) {
      request.gamma.push_back(static_cast<float>(c % 5 == 1 ? -1.5 : c % 5 == 2 ? 0.0 : 0.5 + random.uniform()));
      request.beta.push_back(static_cast<float>(c % 5 == 2 ? 0.0 : 0.3 * random.normal()));
    }
  }
  void add_residuals() {
    with_add = true;
    for (std::size_t w = 0; w < inputs.size(); ++w) {
      inputs[w].add = normal(static_cast<std::size_t>(inputs[w].shape.elements()), 30 + w, 0, 1, type);
    }
  }
};

/// One worker: its queue, its layer, its tensors.
struct DeviceWorker {
  Queue queue{0};
  BatchNorm norm;
  std::int64_t n;
  DeviceTensor x, dy, add, y, dx, d_add;
  DeviceArray<float> gamma, beta, d_gamma, d_beta;
  DeviceArray<std::uint8_t> mask;
  FusedRelu relu;
  bool with_add;

  DeviceWorker(const Problem& p, const Input& in, FusedRelu relu_)
      : norm(queue, p.channels, p.request.eps),
        n(in.shape.n()),
        x(queue, in.shape, p.type, p.layout, in.x),
        dy(queue, in.shape, p.type, p.layout, in.dy),
        add(queue, in.shape, p.type, p.layout),
        y(queue, in.shape, p.type, p.layout),
        dx(queue, in.shape, p.type, p.layout),
        d_add(queue, in.shape, p.type, p.layout),
        gamma(queue, {p.request.gamma.begin(), p.request.gamma.end()}),
        beta(queue, {p.request.beta.begin(), p.request.beta.end()}),
        d_gamma(queue, static_cast<std::size_t>(p.channels)),
        d_beta(queue, static_cast<std::size_t>(p.channels)),
        mask(queue, static_cast<std::size_t>(n * BatchNorm::mask_bytes_per_sample(x.view()))),
        relu(relu_),
        with_add(p.with_add) {
    if (with_add) add.set(in.add);
  }
  ops::Affine affine() const { return {gamma.data(), beta.data()}; }
  void apply() { norm.apply(x, with_add ? add.view() : Tensor{}, y, n, relu, mask.data()); }
  void backward_sums() { norm.backward_sums(x, dy, n, relu, mask.data()); }
  void backward() { norm.backward(x, dy, dx, d_add, n, relu, mask.data(), false, false); }
  std::size_t channels() const { return static_cast<std::size_t>(norm.channels()); }
  std::vector<double> message() { return DeviceArray<double>::read(queue, norm.message(), 1 + 2 * channels()); }
  std::vector<double> backward_message() {
    return DeviceArray<double>::read(queue, norm.backward_message(), 2 * channels());
  }
};

using Workers = std::vector<std::unique_ptr<DeviceWorker>>;

Workers make_workers(const Problem& p, FusedRelu relu) {
  Workers workers;
  for (const Input& in : p.inputs) workers.push_back(std::make_unique<DeviceWorker>(p, in, relu));
  return workers;
}

std::vector<double> sum_of(const std::vector<std::vector<double>>& messages) {
  std::vector<double> sum = messages.front();
  for (std::size_t w = 1; w < messages.size(); ++w) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += messages[w][i];
  }
  return sum;
}

/// Forward and backward with messages, as several workers do it.
void run_group(Workers& workers) {
  std::vector<std::vector<double>> messages;
  for (auto& w : workers) {
    w->norm.sums(w->x, w->n);
    messages.push_back(w->message());
  }
  const std::vector<double> total = sum_of(messages);
  messages.clear();
  for (auto& w : workers) {
    const DeviceArray<double> group(w->queue, total);
    w->norm.finish(group.data(), w->affine());
    w->apply();
    w->backward_sums();
    messages.push_back(w->backward_message());
    w->norm.add_parameter_gradients(w->norm.backward_message(), w->d_gamma.data(), w->d_beta.data());
  }
  const std::vector<double> backward_total = sum_of(messages);
  for (auto& w : workers) {
    const DeviceArray<double> group(w->queue, backward_total);
    w->norm.finish_backward(group.data());
    w->backward();
    w->queue.synchronize();
  }
}

void run_alone(DeviceWorker& w) {
  w.norm.sums(w.x, w.n, true, w.affine());
  w.apply();
  w.norm.backward_sums(w.x, w.dy, w.n, w.relu, w.mask.data(), true);
  w.norm.add_parameter_gradients(w.norm.backward_message(), w.d_gamma.data(), w.d_beta.data());
  w.backward();
  w.queue.synchronize();
}

Values to_double(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

void expect_as_oracle(Workers& workers, const Problem& p, double std) {
  const OracleResult want = batch_norm_oracle(p.inputs, p.channels, p.request);
  const Tolerance t = tolerance_of(p.type);
  for (std::size_t i = 0; i < workers.size(); ++i) {
    SCOPED_TRACE("worker " + std::to_string(i));
    DeviceWorker& w = *workers[i];
    const OracleMember& member = want.members[i];
    expect_near(DeviceArray<double>::read(w.queue, w.norm.arrays().mean, w.channels()), want.mean, {1e-6, 1e-7 * std},
                "mean");
    expect_near(DeviceArray<double>::read(w.queue, w.norm.arrays().var, w.channels()), want.var, {1e-6, 0}, "var");
    expect_near(w.y.get(), member.y, t, "y");
    expect_near(w.dx.get(), member.dx, {t.relative, t.absolute / std}, "dx");
    expect_near(w.d_add.get(), member.d_add, {0, 0}, "d_add");
    const double m = static_cast<double>(w.n * p.inputs[i].shape.spatial());
    expect_near(to_double(w.d_beta.get()), member.d_beta, {1e-5, 1e-6 * (1 + m)}, "d_beta");
    expect_near(to_double(w.d_gamma.get()), member.d_gamma, {1e-5, 1e-6 * (1 + m)}, "d_gamma");
    if (::testing::Test::HasFatalFailure()) return;
  }
}

class CudaBatchNorm : public ::testing::TestWithParam<std::tuple<Layout, DataType>> {
 protected:
  CudaBatchNorm() {
    std::tie(layout, type) = GetParam();
    // Narrow types have no digits left for large means.
    mean = type == DataType::f32 ? 2e4 : 3, std = 2;
  }
  Layout layout;
  DataType type;
  double mean, std;
  const std::vector<Shape> shapes = {{1, 1, 9, 7},  {1, 3, 16, 16}, {1, 27, 8, 8},  {1, 64, 6, 5},
                                     {1, 64, 8, 8}, {1, 40},        {1, 5, 3, 3, 2}};
};

TEST_P(CudaBatchNorm, UnevenAndEmptyWorkersEqualTheOracle) {
  for (const Shape& shape : shapes) {
    for (const FusedRelu relu : {FusedRelu::none, FusedRelu::recompute, FusedRelu::bits}) {
      SCOPED_TRACE(shape.str() + " relu " + std::to_string(static_cast<int>(relu)));
      Problem p(layout, type, shape, {2, 0, 5, 1}, mean, std);
      p.request.relu = relu != FusedRelu::none;
      if (relu == FusedRelu::bits) p.add_residuals();
      Workers workers = make_workers(p, relu);
      run_group(workers);
      expect_as_oracle(workers, p, std);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CudaBatchNorm, LargeTensorsEqualTheOracle) {
  for (const Shape& shape : {Shape{1, 3, 96, 96}, Shape{1, 64, 40, 40}, Shape{1, 264, 12, 12}, Shape{1, 2048, 1, 2}}) {
    SCOPED_TRACE(shape.str());
    Problem p(layout, type, shape, {3}, mean, std);
    Workers workers = make_workers(p, FusedRelu::none);
    run_group(workers);
    expect_as_oracle(workers, p, std);
    if (HasFatalFailure()) return;
    const auto message = workers[0]->message(), backward_message = workers[0]->backward_message();
    run_group(workers);  // nothing is left of the run before
    EXPECT_EQ(workers[0]->message(), message);
    EXPECT_EQ(workers[0]->backward_message(), backward_message);
  }
}

TEST_P(CudaBatchNorm, AWorkerAloneGetsTheSameBitsInFewerLaunches) {
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(shape.str());
    Problem p(layout, type, shape, {4}, mean, std);
    p.request.relu = true;
    Workers group = make_workers(p, FusedRelu::recompute), alone = make_workers(p, FusedRelu::recompute);
    run_group(group);
    run_alone(*alone[0]);
    EXPECT_EQ(group[0]->y.get(), alone[0]->y.get());
    EXPECT_EQ(group[0]->dx.get(), alone[0]->dx.get());
    EXPECT_EQ(group[0]->d_gamma.get(), alone[0]->d_gamma.get());
    EXPECT_EQ(group[0]->d_beta.get(), alone[0]->d_beta.get());
  }
}

TEST_P(CudaBatchNorm, TwoRunsAndBothMasksGiveTheSameBits) {
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(shape.str());
    Problem p(layout, type, shape, {4}, mean, std);
    p.request.relu = true;
    Workers first = make_workers(p, FusedRelu::recompute), second = make_workers(p, FusedRelu::bits);
    run_alone(*first[0]);
    run_alone(*second[0]);
    run_alone(*second[0]);  // nothing is left of the run before
    EXPECT_EQ(first[0]->y.get(), second[0]->y.get());
    EXPECT_EQ(first[0]->dx.get(), second[0]->dx.get());
    EXPECT_EQ(first[0]->backward_message(), second[0]->backward_message());
  }
}

TEST_P(CudaBatchNorm, AddsToGradientsThatAreThere) {
  Problem p(layout, type, {1, 24, 5, 4}, {3}, mean, std);
  Workers plain = make_workers(p, FusedRelu::none), adding = make_workers(p, FusedRelu::none);
  run_alone(*plain[0]);
  run_alone(*adding[0]);
  DeviceWorker& w = *adding[0];
  const Values ones(w.dx.get().size(), 1.0);
  w.dx.set(ones);
  w.d_add.set(ones);
  w.norm.backward(w.x, w.dy, w.dx, w.d_add, w.n, w.relu, nullptr, true, true);
  Values dx = plain[0]->dx.get(), d_add = plain[0]->d_add.get();
  for (double& v : dx) v += 1;
  for (double& v : d_add) v += 1;
  expect_near(w.dx.get(), dx, tolerance_of(type), "dx");
  expect_near(w.d_add.get(), d_add, tolerance_of(type), "d_add");
  // Either may be absent.
  w.dx.set(ones);
  w.norm.backward(w.x, w.dy, Tensor{}, w.d_add, w.n, w.relu, nullptr, true, false);
  EXPECT_EQ(w.dx.get(), ones);
  EXPECT_EQ(w.d_add.get(), plain[0]->d_add.get());
}

TEST_P(CudaBatchNorm, GivenStatisticsAreConstants) {
  Problem p(layout, type, {1, 24, 5, 4}, {3}, 3, std);
  Values running_mean(24), running_var(24);
  for (std::size_t c = 0; c < 24; ++c) running_mean[c] = 3 + 0.125 * static_cast<double>(c % 3), running_var[c] = 4.5;
  p.request.given = OracleRequest::Statistics{running_mean, running_var};
  Workers workers = make_workers(p, FusedRelu::none);
  DeviceWorker& w = *workers[0];
  const DeviceArray<float> mean_f(w.queue, {running_mean.begin(), running_mean.end()});
  const DeviceArray<float> var_f(w.queue, {running_var.begin(), running_var.end()});
  w.norm.use_statistics(mean_f.data(), var_f.data(), w.affine());
  w.apply();
  w.backward();
  const OracleResult want = batch_norm_oracle(p.inputs, p.channels, p.request);
  expect_near(w.y.get(), want.members[0].y, tolerance_of(type), "y");
  expect_near(w.dx.get(), want.members[0].dx, tolerance_of(type), "dx");
}

INSTANTIATE_TEST_SUITE_P(All, CudaBatchNorm,
                         ::testing::Combine(::testing::Values(Layout::channels_first, Layout::channels_last),
                                            ::testing::Values(DataType::f32, DataType::f16, DataType::bf16)),
                         [](const auto& test) {
                           return std::string(name_of(std::get<0>(test.param))) + "_" +
                                  name_of(std::get<1>(test.param));
                         });

TEST(CudaBatchNormCases, FoldsStatisticsAsTheStepCollectsThem) {
  Problem p(Layout::channels_last, DataType::f32, {1, 8, 3, 3}, {2}, 1, 2);
  Workers workers = make_workers(p, FusedRelu::none);
  DeviceWorker& w = *workers[0];
  run_alone(w);
  const DeviceArray<float> mean(w.queue, std::vector<float>(8, 2.0F)), var(w.queue, std::vector<float>(8, 4.0F));
  w.norm.fold_statistics(0.25, 0.125, mean.data(), var.data());
  const OracleResult want = batch_norm_oracle(p.inputs, p.channels, p.request);
  for (std::size_t c = 0; c < 8; ++c) {
    EXPECT_NEAR(mean.get()[c], 0.75 * 2 + 0.125 * want.mean[c], 1e-6);
    EXPECT_NEAR(var.get()[c], 0.75 * 4 + 0.125 * want.var[c] * 18 / 17, 1e-6);
  }
}

TEST(CudaBatchNormCases, EmptyGroupsGiveZerosAndNothingElse) {
  Problem p(Layout::channels_last, DataType::f32, {1, 8, 3, 3}, {0, 0}, 1, 2);
  Workers workers = make_workers(p, FusedRelu::none);
  run_group(workers);
  for (auto& w : workers) {
    EXPECT_EQ(w->message(), std::vector<double>(17, 0));
    EXPECT_EQ(w->d_gamma.get(), std::vector<float>(8, 0));
    EXPECT_EQ(DeviceArray<float>::read(w->queue, w->norm.arrays().scale, 8), std::vector<float>(8, 0));
  }
}

TEST(CudaBatchNormCases, ConstantChannelsHaveNoVarianceAndNanReachesItsChannelAlone) {
  for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
    Problem p(layout, DataType::f32, {1, 4, 4, 4}, {2}, 0, 1);
    Values& x = p.inputs[0].x;
    for (std::size_t n = 0; n < 2; ++n) {
      for (std::size_t i = 0; i < 16; ++i) x[(n * 4 + 1) * 16 + i] = 12345.678F;
    }
    x[16 * 4 + 16 * 3 + 5] = std::numeric_limits<double>::quiet_NaN();
    Workers workers = make_workers(p, FusedRelu::none);
    DeviceWorker& w = *workers[0];
    run_alone(w);
    const auto var = DeviceArray<double>::read(w.queue, w.norm.arrays().var, 4);
    EXPECT_EQ(var[1], 0);
    EXPECT_GT(var[0], 0);
    EXPECT_TRUE(std::isnan(var[3]));
    const Values y = w.y.get();
    EXPECT_TRUE(std::isnan(y[3 * 16]));
    EXPECT_FALSE(std::isnan(y[0]));
  }
}

TEST(CudaBatchNormCases, ManyBatchesOfOneQueueShareItsScratch) {
  Problem p(Layout::channels_last, DataType::f32, {1, 16, 24, 24}, {4}, 0, 1);
  Workers workers = make_workers(p, FusedRelu::none);
  run_alone(*workers[0]);
  const auto first = workers[0]->y.get();
  for (int i = 0; i < 3; ++i) run_alone(*workers[0]);
  EXPECT_EQ(workers[0]->y.get(), first);
}

}  // namespace
}  // namespace syncbn::test
