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

}  // namespace
}  // namespace syncbn
