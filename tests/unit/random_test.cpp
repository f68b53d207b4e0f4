#include "syncbn/core/random.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace syncbn {
namespace {

TEST(Random, StreamsDependOnTheWholeKey) {
  Random a(1, Purpose::shuffle, 2, 3), same(1, Purpose::shuffle, 2, 3);
  const auto first = a.next();
  EXPECT_EQ(first, same.next());
  EXPECT_NE(first, Random(2, Purpose::shuffle, 2, 3).next());
  EXPECT_NE(first, Random(1, Purpose::augment, 2, 3).next());
  EXPECT_NE(first, Random(1, Purpose::shuffle, 2 + (1ull << 40), 3).next());
  EXPECT_NE(first, Random(1, Purpose::shuffle, 2, 3 + (1ull << 40)).next());
}

TEST(Random, NormalHasUnitMoments) {
  Random random(7, Purpose::test);
  double sum = 0, squares = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / n, 0, 0.02);
  EXPECT_NEAR(squares / n, 1, 0.02);
}

TEST(Random, PermutationHoldsEveryIndexOnce) {
  auto order = permutation(1000, 5, Purpose::shuffle, 0);
  EXPECT_NE(order, permutation(1000, 5, Purpose::shuffle, 1));
  std::sort(order.begin(), order.end());
  for (std::uint32_t i = 0; i < 1000; ++i) EXPECT_EQ(order[i], i);
}

}  // namespace
}  // namespace syncbn
