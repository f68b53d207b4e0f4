// Every normalization inside a network: what it must keep whatever the workers, the threads and the ranks.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/small_network.hpp"
#include "support/worlds.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::test {
namespace {

class EveryNorm : public ::testing::TestWithParam<std::string> {
 protected:
  std::vector<int> groups_of(int workers) const {
    if (!shares_statistics(GetParam())) return {1};
    return workers == 1 ? std::vector<int>{1} : std::vector<int>{1, workers};
  }
};

void expect_close(const std::vector<float>& a, const std::vector<float>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i] - b[i])));
  EXPECT_LT(largest, tolerance);
}

/// Gradients by parameter: comparable between groupings whose flat layouts differ.
std::vector<float> parameters_of(const NetworkResult& r, const NetworkRun& run) {
  const auto backend = ops::make_cpu_backend();
  const ModelState state = small_network_state(run, *backend);
  std::vector<float> values;
  for (std::size_t i = 0; i < state.model().parameters.size(); ++i) {
    const FlatRange range = state.parameter(static_cast<int>(i));
    values.insert(values.end(), r.gradient.begin() + range.offset, r.gradient.begin() + range.offset + range.count);
  }
  return values;
}

// Case 37: uneven and empty workers give the loss and gradients of a single process.
TEST_P(EveryNorm, Case37UnevenWorkersEqualOneProcess) {
  const NetworkRun one{{12}, 1, GetParam()};
  const NetworkResult expected = run_small_network(one);
  EXPECT_GT(expected.loss, 0.5);
  const std::vector<std::vector<int>> spreads{{6, 6}, {5, 4, 3}, {0, 7, 1, 4}, {1, 1, 1, 1, 1, 1, 2, 4}, {12, 0, 0}};
  for (const std::vector<int>& counts : spreads) {
    const int workers = static_cast<int>(counts.size());
    const NetworkRun run{counts, shares_statistics(GetParam()) ? workers : 1, GetParam()};
    const NetworkResult many = run_small_network(run);
    EXPECT_NEAR(many.loss, expected.loss, 1e-6);
    expect_close(parameters_of(many, run), parameters_of(expected, one), 2e-6);
    expect_close(many.statistics, expected.statistics, 1e-5);
  }
}

TEST_P(EveryNorm, GradientsAgreeWithFiniteDifferences) {
  NetworkRun run{{3, 4}, shares_statistics(GetParam()) ? 2 : 1, GetParam()};
  const NetworkResult base = run_small_network(run);
  const auto backend = ops::make_cpu_backend();
  const ModelState layout = small_network_state(run, *backend);
  for (std::size_t p = 0; p < layout.model().parameters.size(); ++p) {
    const FlatRange range = layout.parameter(static_cast<int>(p));
    Random random(4, Purpose::test, p);
    std::vector<float> direction(static_cast<std::size_t>(range.count));
    double expected = 0;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      direction[i] = static_cast<float>(random.normal() / std::sqrt(static_cast<double>(range.count)));
      expected += direction[i] * base.gradient[static_cast<std::size_t>(range.offset) + i];
    }
    const auto loss_at = [&](float t) {
      run.change = [&](ModelState& state) {
        const std::span<float> values = state.values(range);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] += t * direction[i];
      };
      return run_small_network(run).loss;
    };
    // A short step suffers from the loss's rounding, a long one from the kinks of ReLU and pooling.
    double error = std::numeric_limits<double>::infinity();
    for (const float h : {2e-4f, 1e-3f}) {
      error = std::min(error, std::abs((loss_at(h) - loss_at(-h)) / (2 * h) - expected));
    }
    EXPECT_LE(error, 3e-4 + 0.02 * std::abs(expected)) << layout.model().parameters[p].name;
  }
}

TEST_P(EveryNorm, BitsDoNotDependOnRanksAndThreads) {
  const std::vector<std::vector<int>> spreads{{5}, {3, 4}, {2, 0, 3}, {3, 2, 0, 4}, {2, 2, 3, 0, 2, 2, 3, 4}};
  for (const std::vector<int>& counts : spreads) {
    const int workers = static_cast<int>(counts.size());
    if (workers < job_ranks()) continue;
    for (const int group : groups_of(workers)) {
      const NetworkRun run{counts, group, GetParam()};
      const NetworkResult one = run_small_network(run, 1);
      for (const int threads : {1, 3}) {
        WorldOptions options;
        options.workers = workers;
        options.threads = threads;
        World world = make_world(options);
        const NetworkResult other = run_small_network(world, run);
        EXPECT_EQ(other.gradient, one.gradient) << workers << " workers, groups of " << group;
        EXPECT_EQ(other.statistics, one.statistics);
        EXPECT_EQ(other.loss, one.loss);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Network, EveryNorm, ::testing::ValuesIn(norm_types()),
                         [](const auto& norm) { return norm.param; });

}  // namespace
}  // namespace syncbn::test
