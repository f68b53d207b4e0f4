#include "nn/network.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/small_network.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

using test::NetworkResult;
using test::run_small_network;

void expect_close(const std::vector<float>& a, const std::vector<float>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i] - b[i])));
  EXPECT_LT(largest, tolerance);
}

/// Gradients by parameter name and the rest: comparable between groupings whose flat layouts differ.
std::vector<float> parameters_of(const NetworkResult& r, int workers, int group) {
  const auto backend = ops::make_cpu_backend();
  NormSettings norm;
  norm.whole_world = group == workers;
  const ModelState state(make_model(test::small_network_options()), norm, *backend);
  std::vector<float> values;
  for (std::size_t i = 0; i < state.model().parameters.size(); ++i) {
    const FlatRange range = state.parameter(static_cast<int>(i));
    values.insert(values.end(), r.gradient.begin() + range.offset, r.gradient.begin() + range.offset + range.count);
  }
  return values;
}

// Case 37: with statistics shared by all, uneven and empty workers give the loss and gradients of a single process.
TEST(Network, Case37UnevenWorkersEqualOneProcess) {
  const NetworkResult one = run_small_network({12}, 1);
  EXPECT_GT(one.loss, 0.5);
  const std::vector<std::vector<int>> spreads{{6, 6}, {5, 4, 3}, {0, 7, 1, 4}, {1, 1, 1, 1, 1, 1, 2, 4}, {12, 0, 0}};
  for (const std::vector<int>& counts : spreads) {
    const int workers = static_cast<int>(counts.size());
    const NetworkResult many = run_small_network(counts, workers);
    EXPECT_NEAR(many.loss, one.loss, 1e-6);
    expect_close(parameters_of(many, workers, workers), parameters_of(one, 1, 1), 2e-6);
    expect_close(many.statistics, one.statistics, 1e-5);
  }
}

TEST(Network, GradientsAgreeWithFiniteDifferences) {
  const NetworkResult base = run_small_network({3, 4}, 2);
  const auto backend = ops::make_cpu_backend();
  NormSettings norm;
  const ModelState layout(make_model(test::small_network_options()), norm, *backend);
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
      return run_small_network({3, 4}, 2, 2,
                               [&](ModelState& state) {
                                 const std::span<float> values = state.values(range);
                                 for (std::size_t i = 0; i < values.size(); ++i) values[i] += t * direction[i];
                               })
          .loss;
    };
    const float h = 2e-4f;
    EXPECT_NEAR((loss_at(h) - loss_at(-h)) / (2 * h), expected, 3e-4 + 0.02 * std::abs(expected))
        << layout.model().parameters[p].name;
  }
}

// Groups: running statistics are the average over groups, as if each group had kept its own and all were averaged.
TEST(Network, GroupStatisticsAreAveraged) {
  const NetworkResult grouped = run_small_network({4, 4, 4, 4}, 2);
  const NetworkResult whole = run_small_network({4, 4, 4, 4}, 4);
  // The mean of the groups' means is the mean of the whole when groups are even; only bn1's inputs are the same in
  // both.
  for (std::size_t c = 0; c < 6; ++c) EXPECT_NEAR(grouped.statistics[c], whole.statistics[c], 1e-6);
  EXPECT_NE(grouped.gradient, whole.gradient);
}

TEST(Network, ResultsDoNotDependOnThreads) {
  const NetworkResult one = run_small_network({3, 2, 0, 4}, 2, 1);
  for (int threads = 2; threads <= 4; ++threads) {
    const NetworkResult other = run_small_network({3, 2, 0, 4}, 2, threads);
    EXPECT_EQ(other.gradient, one.gradient);
    EXPECT_EQ(other.loss, one.loss);
  }
}

}  // namespace
}  // namespace syncbn
