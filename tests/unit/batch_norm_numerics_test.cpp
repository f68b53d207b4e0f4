// Accuracy against f64, extreme values and counts, derivatives against finite differences.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nn/normalization/batch_norm_pass.hpp"
#include "support/batch_norm_problem.hpp"
#include "support/worlds.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::test {

namespace {

std::vector<Shape> uneven(int workers, std::int64_t channels = 4) {
  std::vector<Shape> shapes;
  for (int w = 0; w < workers; ++w) shapes.push_back({2 + w % 3, channels, 7, 9});
  return shapes;
}

// The group's statistics as computed by the layer's arithmetic, within 1e-6 relative of the oracle's.
void expect_accurate_statistics(const Problem& problem) {
  const OracleResult oracle = batch_norm_oracle(problem.inputs, problem.channels, {});
  World world = make_world(problem.workers());
  world.run([&](Worker& worker) {
    const Input& input = problem.inputs[worker.index()];
    const HostTensor x(input.shape, problem.type, problem.x_layout, input.x);
    const auto backend = ops::make_cpu_backend();
    BatchNormPass pass(backend->batch_norm(), "bn1", problem.channels, 1e-5, worker.group(problem.workers()));
    pass.begin();
    pass.accumulate(x.view(), {0, input.shape.n()});
    pass.start(1);
    pass.finish({}, {});
    EXPECT_EQ(static_cast<double>(pass.count()), oracle.count);
    expect_close({pass.var().begin(), pass.var().end()}, oracle.var, {1e-6, 0}, false, "var");
    for (std::size_t c = 0; c < oracle.mean.size(); ++c) {  // relative to the data's size: a mean may happen to be 0
      const double size = std::max(std::abs(oracle.mean[c]), std::sqrt(oracle.var[c]));
      EXPECT_NEAR(pass.mean()[c], oracle.mean[c], 1e-6 * size) << "mean of channel " << c;
    }
  });
}

// Sums that no data of this size could produce: every worker reports 2^30 values of the given mean and variance.
class InjectedSums : public ops::BatchNormKernels {
 public:
  static constexpr double kValues = 1 << 30;
  InjectedSums(double mean, double var) : mean_(mean), var_(var) {}
  void pivot(const Tensor&, std::int64_t, double* pivot) const override { *pivot = mean_; }
  void sums(const Tensor&, ops::Samples, const double*, double* sum, double* sum_sq) const override {
    *sum += 0;
    *sum_sq += var_ * kValues;
  }
  void apply(const Tensor&, const Tensor&, const Tensor&, ops::Samples, const ops::ChannelMap&, ops::FusedRelu,
             std::uint8_t*) const override {}
  void backward_sums(const Tensor&, const Tensor&, ops::Samples, const ops::ChannelMap&, ops::FusedRelu,
                     const std::uint8_t*, double*, double*) const override {}
  void backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, ops::Samples, const ops::ChannelMap&,
                ops::FusedRelu, const std::uint8_t*, const ops::GradientMap&, bool, bool) const override {}
  std::int64_t mask_bytes_per_sample(const Tensor&) const override { return 0; }

 private:
  double mean_, var_;
};

}  // namespace

TEST(BatchNormCases, Case20GammaNegativeAndZero) {
  for (const int workers : world_sizes()) {
    for (const bool add : {false, true}) {
      Problem problem = draw_problem(uneven(workers, 6), {.add = add});
      problem.gamma = {-1.5, 0, 0, 0, -0.25, 2};
      problem.beta = {0.5, 0.5, -0.5, 0, 0, -1};
      problem.relu = true;
      expect_matches_oracle(problem);
    }
  }
}

TEST(BatchNormCases, Case21LargeOffsets) {
  for (const double offset : {1e3, -1e3, 1e4, -1e4}) {
    for (const int workers : world_sizes()) {
      const Problem problem = draw_problem(uneven(workers), {.offset = offset, .spread = 1});
      expect_accurate_statistics(problem);
      expect_matches_oracle(problem);
    }
    expect_accurate_statistics(
        draw_problem({{16, 2, 80, 80}, {16, 2, 80, 80}, {1, 2, 3, 3}, {0, 2, 3, 3}}, {.offset = offset, .spread = 1}));
  }
}

TEST(BatchNormCases, Case22ConstantInput) {
  for (const int workers : world_sizes()) {
    for (const double value : {0.0, 0.1, -3.0, 12345.678, 1e-30, -3e18}) {
      Problem problem = draw_problem(uneven(workers));
      problem.options.momentum = 1;
      for (auto& input : problem.inputs) input.x = rounded_to(DataType::f32, Values(input.x.size(), value));
      for (const auto& outcome : run(problem)) {
        if (!outcome) continue;
        EXPECT_EQ(outcome->running_var, Values(4, 0)) << value;
        for (std::size_t i = 0; i < outcome->y.size(); ++i) {
          ASSERT_TRUE(std::isfinite(outcome->y[i]) && std::isfinite(outcome->dx[i])) << value;
          if (std::abs(value) < 2e4) {
            ASSERT_NEAR(outcome->y[i], problem.beta[i / 63 % 4], 1e-5) << value;
          }
        }
      }
      if (std::abs(value) < 2e4) expect_matches_oracle(problem);
    }
  }
}

TEST(BatchNormCases, Case23VarianceFarBelowEps) {
  for (const int workers : world_sizes()) {
    for (const double spread : {3e-5, 1e-7}) {  // variance 1e-9 and 1e-14, eps 1e-5
      const Problem problem = draw_problem(uneven(workers), {.offset = 0, .spread = spread});
      expect_accurate_statistics(problem);
      expect_matches_oracle(problem);
    }
  }
}

TEST(BatchNormCases, Case24Fp16NearItsLargest) {
  for (const int workers : world_sizes()) {
    Problem problem = draw_problem(uneven(workers), {.type = DataType::f16});
    for (auto& input : problem.inputs) {
      for (std::size_t i = 0; i < input.x.size(); ++i) input.x[i] = 6e4 + 1e3 * std::fmod(input.x[i], 4);
      input.x = rounded_to(DataType::f16, input.x);
    }
    expect_accurate_statistics(problem);
    expect_matches_oracle(problem);
  }
}

// Parameters that bf16 cannot hold keep their f32 digits; statistics and d(gamma) have f32 accuracy.
TEST(BatchNormCases, Case25Bf16DataF32Parameters) {
  for (const int workers : world_sizes()) {
    Problem problem = draw_problem(uneven(workers), {.offset = 3, .type = DataType::bf16});
    problem.gamma[0] = static_cast<double>(1.0009765F);
    problem.running_mean = Values(4, static_cast<double>(0.1F));
    expect_accurate_statistics(problem);
    expect_matches_oracle(problem);
  }
}

TEST(BatchNormCases, Case26CountAboveTheLargestHalf) {
  for (const DataType type : {DataType::f16, DataType::bf16}) {
    const Problem problem = draw_problem({{2, 1, 200, 200}, {1, 1, 1, 1}, {1, 1, 50, 4}, {0, 1, 2, 2}}, {.type = type});
    expect_accurate_statistics(problem);
    expect_matches_oracle(problem);
  }
}

TEST(BatchNormCases, Case27LocalCountAbove2To24) {
  constexpr std::int64_t kBig = (std::int64_t{1} << 24) + 3;
  const int workers = 4;
  World world = make_world(workers);
  world.run([&](Worker& worker) {
    const std::int64_t n = worker.index() == 1 ? kBig : 1;
    const Shape shape{n, 1};
    const Buffer buffer(static_cast<std::size_t>(n) * sizeof(float));
    const Tensor x{buffer.data(), shape, DataType::f32, Layout::channels_first};
    for (std::int64_t i = 0; i < n; ++i) x.as<float>()[i] = i % 2 == 0 ? 3.0F : 5.0F;
    const auto backend = ops::make_cpu_backend();
    BatchNormPass pass(backend->batch_norm(), "bn1", 1, 1e-5, worker.group(workers));
    pass.begin();
    pass.accumulate(x, {0, n});
    pass.start(1);
    pass.finish({}, {});
    const double total = kBig + 3, fives = (kBig - 1) / 2;
    const double share = fives / total;
    EXPECT_EQ(pass.count(), kBig + 3);
    EXPECT_NEAR(pass.mean()[0], 3 + 2 * share, 1e-12);
    EXPECT_NEAR(pass.var()[0], 4 * share * (1 - share), 1e-9);
    EXPECT_DOUBLE_EQ(pass.unbiased_factor(), total / (total - 1));
  });
}

TEST(BatchNormCases, Case28GroupCountAbove2To31) {
  for (const int workers : world_sizes()) {
    World world = make_world(workers);
    world.run([&](Worker& worker) {
      const InjectedSums kernels(worker.index(), 2);  // means 0 .. W-1, variance 2 each
      const Tensor x{nullptr, Shape{1 << 18, 1, 64, 64}, DataType::f32, Layout::channels_first};
      BatchNormPass pass(kernels, "bn1", 1, 1e-5, worker.group(workers));
      pass.begin();
      pass.accumulate(x, {0, 1 << 18});
      pass.start(1);
      pass.finish({}, {});
      const std::int64_t m = workers * (std::int64_t{1} << 30);
      const double w = workers;
      EXPECT_EQ(pass.count(), m);
      EXPECT_DOUBLE_EQ(pass.mean()[0], (w - 1) / 2);
      EXPECT_DOUBLE_EQ(pass.var()[0], 2 + (w * w - 1) / 12);
      EXPECT_DOUBLE_EQ(pass.unbiased_factor(), static_cast<double>(m) / static_cast<double>(m - 1));
    });
  }
}

// d loss / dx of loss = sum over all workers of dy * relu?(y), by central differences, every element of every worker.
TEST(BatchNormCases, Case43FiniteDifferencesAcrossWorkers) {
  constexpr double kStep = 1e-5;
  for (const int workers : world_sizes()) {
    if (workers > 4 && workers != 8) continue;
    for (const bool relu : {false, true}) {
      std::vector<Shape> shapes;
      for (int w = 0; w < workers; ++w) shapes.push_back({1 + w % 2, 2, 3});
      Problem problem = draw_problem(shapes, {.type = DataType::f64, .add = relu});
      problem.relu = relu;
      const Outcomes outcomes = run(problem);
      World world = make_world(workers);
      world.run([&](Worker& worker) {
        const Communicator group = worker.group(workers);
        BatchNorm layer = make_layer(problem, group);
        const auto context = BatchNorm::make_context();
        const auto me = static_cast<std::size_t>(worker.index());
        const Input& input = problem.inputs[me];
        HostTensor x(input.shape, DataType::f64, Layout::channels_first, input.x);
        const HostTensor y(input.shape, DataType::f64, Layout::channels_first);
        const HostTensor add(input.shape, DataType::f64, Layout::channels_first, relu ? input.add : input.x);
        const auto loss_at = [&](std::size_t owner, std::size_t element, double delta) {
          Values moved = input.x;
          if (owner == me) moved[element] += delta;
          x.set(moved);
          layer.forward(Mode::train, x.view(), y.view(), *context, {relu ? &add.view() : nullptr, relu}, 1);
          const Values out = y.get();
          double loss = 0;
          for (std::size_t i = 0; i < out.size(); ++i) loss += out[i] * input.dy[i];
          group.all_reduce(std::span<double>(&loss, 1), Reduce::sum, {"loss", 1});
          return loss;
        };
        for (std::size_t owner = 0; owner < problem.inputs.size(); ++owner) {
          for (std::size_t i = 0; i < problem.inputs[owner].x.size(); ++i) {
            const double slope = (loss_at(owner, i, kStep) - loss_at(owner, i, -kStep)) / (2 * kStep);
            if (owner == me) {
              EXPECT_NEAR(outcomes[me]->dx[i], slope, 1e-8) << fmt::format("worker {} element {}", owner, i);
            }
          }
        }
      });
    }
  }
}

}  // namespace syncbn::test
