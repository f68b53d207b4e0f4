#include "nn/network.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/small_network.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

using test::NetworkResult;
using test::run_small_network;

// Groups: running statistics are the average over groups, as if each group had kept its own and all were averaged.
TEST(Network, GroupStatisticsAreAveraged) {
  const NetworkResult grouped = run_small_network({4, 4, 4, 4}, 2);
  const NetworkResult whole = run_small_network({4, 4, 4, 4}, 4);
  // The mean of the groups' means is the mean of the whole when groups are even; only bn1's inputs are the same in
  // both.
  for (std::size_t c = 0; c < 6; ++c) EXPECT_NEAR(grouped.statistics[c], whole.statistics[c], 1e-6);
  EXPECT_NE(grouped.gradient, whole.gradient);
}

// With a reference batch, two batches of half its size leave what one whole one leaves: (1 - m)^(1/2) twice.
TEST(Network, DecayPerSampleDoesNotDependOnTheBatch) {
  test::NetworkRun run{.counts = {5, 7}, .group = 2};
  const NetworkResult plain = run_small_network(run);
  run.momentum = 0.19;  // 1 - 0.81^(1/2) = 0.1
  run.momentum_reference_batch = 24;
  const NetworkResult half = run_small_network(run);
  ASSERT_EQ(plain.statistics.size(), half.statistics.size());
  for (std::size_t i = 0; i < plain.statistics.size(); ++i) EXPECT_NEAR(half.statistics[i], plain.statistics[i], 1e-6);
  run.momentum_reference_batch = 12;
  EXPECT_NE(run_small_network(run).statistics, plain.statistics);
}

}  // namespace
}  // namespace syncbn
