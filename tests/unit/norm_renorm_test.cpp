// Batch renormalization by several workers against its definition in f64.

#include <gtest/gtest.h>

#include <cmath>

#include "nn/normalization/batch_norm_pass.hpp"
#include "support/ops_support.hpp"
#include "support/worlds.hpp"

namespace syncbn::test {
namespace {

using syncbn::testing::Array;
using syncbn::testing::expect_close;

constexpr double kEps = 1e-5;
constexpr std::int64_t kChannels = 3, kPositions = 4;

/// One channel of the definition: the values of all workers.
struct Channel {
  std::vector<double> x, dy;
  double gamma, beta, running_mean, running_var;
  double r = 1, d = 0;

  std::pair<double, double> moments() const {
    double mean = 0, var = 0;
    for (const double v : x) mean += v / static_cast<double>(x.size());
    for (const double v : x) var += (v - mean) * (v - mean) / static_cast<double>(x.size());
    return {mean, std::sqrt(var + kEps)};
  }
  void set_correction(RenormLimits limits) {
    const auto [mean, std] = moments();
    const double running_std = std::sqrt(running_var + kEps);
    r = std::min(std::max(std / running_std, 1 / limits.r_max), limits.r_max);
    d = std::min(std::max((mean - running_mean) / running_std, -limits.d_max), limits.d_max);
  }
  std::vector<double> forward() const {
    const auto [mean, std] = moments();
    std::vector<double> y;
    for (const double v : x) y.push_back(gamma * ((v - mean) / std * r + d) + beta);
    return y;
  }
  /// d(sum(dy * y)) / d(*value) with r and d held, by central differences.
  double slope(double& value) {
    const double kept = value, h = 1e-5;
    double sum = 0;
    for (const double sign : {1.0, -1.0}) {
      value = kept + sign * h;
      const std::vector<double> y = forward();
      for (std::size_t i = 0; i < y.size(); ++i) sum += sign * dy[i] * y[i] / (2 * h);
    }
    value = kept;
    return sum;
  }
};

struct Parameters {
  std::vector<float> gamma = {1.5f, -0.5f, 2}, beta = {0.1f, 0, -1};
  std::vector<float> running_mean = {0.4f, 30, -2}, running_var = {4.5f, 3, 0.001f};  // near, far away, too small
};

Array inputs(int worker, int count, std::uint64_t what) {
  Array a({count, kChannels, kPositions}, Layout::channels_last);
  if (what == 1) a.fill(what + 10 * static_cast<std::uint64_t>(worker), 0.5, 2);
  if (what == 2) a.fill(what + 10 * static_cast<std::uint64_t>(worker));
  return a;
}

void check(const std::vector<int>& counts, RenormLimits limits) {
  const Parameters p;
  std::vector<Channel> oracle;
  for (std::size_t c = 0; c < kChannels; ++c) {
    Channel channel{{}, {}, p.gamma[c], p.beta[c], p.running_mean[c], p.running_var[c]};
    for (int w = 0; w < static_cast<int>(counts.size()); ++w) {
      const Array x = inputs(w, counts[w], 1);
      const Array dy = inputs(w, counts[w], 2);
      for (std::int64_t n = 0; n < x.n(); ++n) {
        for (std::int64_t i = 0; i < kPositions; ++i) {
          channel.x.push_back(x.get(n, static_cast<std::int64_t>(c), i));
          channel.dy.push_back(dy.get(n, static_cast<std::int64_t>(c), i));
        }
      }
    }
    channel.set_correction(limits);
    oracle.push_back(std::move(channel));
  }
  World world = make_world(static_cast<int>(counts.size()));
  const auto backend = ops::make_cpu_backend();
  world.run([&](Worker& worker) {
    const int n = counts[worker.index()];
    const Array x = inputs(worker.index(), n, 1), dy = inputs(worker.index(), n, 2);
    const Array y = inputs(worker.index(), n, 0), dx = inputs(worker.index(), n, 0);
    BatchNormPass pass(backend->batch_norm(), "renorm", kChannels, kEps, worker.all());
    pass.begin();
    pass.accumulate(x, {0, n});
    pass.start(0);
    pass.finish(p.gamma, p.beta, RenormReference{p.running_mean, p.running_var, limits});
    pass.apply(x, {}, y, {0, n}, ops::FusedRelu::none, nullptr);
    pass.begin_backward();
    pass.accumulate_backward(x, dy, {0, n}, ops::FusedRelu::none, nullptr);
    pass.start_backward(0);
    pass.finish_backward();
    pass.apply_backward(x, dy, dx, {}, {0, n}, ops::FusedRelu::none, nullptr, false, false);
    std::vector<double> d_gamma(kChannels), d_beta(kChannels);
    pass.parameter_gradients(/*of_group=*/true, d_gamma, d_beta);

    std::size_t first = 0;
    for (int w = 0; w < worker.index(); ++w) first += static_cast<std::size_t>(counts[w]);
    for (std::size_t c = 0; c < kChannels; ++c) {
      Channel channel = oracle[c];
      const std::vector<double> want = channel.forward();
      const double steep = std::max(1.0, channel.r);
      for (std::int64_t k = 0; k < n * kPositions; ++k) {
        const std::size_t i = first * kPositions + static_cast<std::size_t>(k);
        const auto at = [&](const Array& a) {
          return a.get(k / kPositions, static_cast<std::int64_t>(c), k % kPositions);
        };
        expect_close(at(y), want[i], 1e-6, 1e-6 * steep, "y");
        expect_close(at(dx), channel.slope(channel.x[i]), 1e-5, 1e-5 * steep, "dx");
      }
      const double far = std::max(steep, std::abs(channel.d));  // d times sum(dy), whose terms cancel
      expect_close(d_gamma[c], channel.slope(channel.gamma), 1e-5, 1e-5 * far, "d_gamma");
      expect_close(d_beta[c], channel.slope(channel.beta), 1e-5, 1e-5, "d_beta");
    }
  });
}

TEST(BatchRenorm, AgreesWithTheDefinition) {
  const std::vector<std::vector<int>> spreads = {{5}, {3, 2}, {4, 0, 1}, {0, 3, 1, 1, 2, 0, 1, 2}};
  for (const std::vector<int>& counts : spreads) {
    if (static_cast<int>(counts.size()) < job_ranks()) continue;
    check(counts, {1, 0});
    check(counts, {3, 5});
    check(counts, {1.05, 0.01});
    check(counts, {1e6, 1e6});
  }
}

// Within the limits a training batch is normalized as evaluation would.
TEST(BatchRenorm, LoosestLimitsGiveTheRunningStatistics) {
  const Parameters p;
  const auto backend = ops::make_cpu_backend();
  const Array x = inputs(0, 6, 1), train = inputs(0, 6, 0), eval = inputs(0, 6, 0);
  BatchNormPass pass(backend->batch_norm(), "renorm", kChannels, kEps, Communicator());
  pass.begin();
  pass.accumulate(x, {0, 6});
  pass.start(0);
  pass.finish(p.gamma, p.beta, RenormReference{p.running_mean, p.running_var, {1e6, 1e6}});
  pass.apply(x, {}, train, {0, 6}, ops::FusedRelu::none, nullptr);
  pass.use_statistics(p.running_mean, p.running_var, p.gamma, p.beta);
  pass.apply(x, {}, eval, {0, 6}, ops::FusedRelu::none, nullptr);
  x.for_each([&](auto n, auto c, auto i) { expect_close(train.get(n, c, i), eval.get(n, c, i), 1e-6, 1e-5, "y"); });
}

TEST(BatchRenorm, LimitsGrowWithTheTraining) {
  const RenormOptions options{3, 5, 0.1, 0.3};
  for (const double progress : {0.0, 0.05, 0.1}) {
    EXPECT_DOUBLE_EQ(renorm_limits(options, progress).r_max, 1);
    EXPECT_DOUBLE_EQ(renorm_limits(options, progress).d_max, 0);
  }
  EXPECT_NEAR(renorm_limits(options, 0.2).r_max, 2, 1e-12);
  EXPECT_NEAR(renorm_limits(options, 0.2).d_max, 2.5, 1e-12);
  EXPECT_DOUBLE_EQ(renorm_limits(options, 0.3).r_max, 3);
  EXPECT_DOUBLE_EQ(renorm_limits(options, 1).d_max, 5);
  EXPECT_DOUBLE_EQ(renorm_limits({3, 5, 0.2, 0.2}, 0.2).r_max, 3);  // at once
}

}  // namespace
}  // namespace syncbn::test
