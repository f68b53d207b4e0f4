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

// Data order, masks and initial weights of a checkpoint's run must be those that a later version draws.
TEST(Random, DrawsTheSameInEveryVersion) {
  Random random(1, Purpose::test, 2, 3);
  std::vector<std::uint64_t> drawn;
  for (int i = 0; i < 5; ++i) drawn.push_back(random.next());
  for (int i = 0; i < 3; ++i) drawn.push_back(random.below(1'000'000'007));
  EXPECT_EQ(drawn, (std::vector<std::uint64_t>{3721572720, 1312832609, 1587379086, 1988839966, 3974514951, 453197822,
                                               941441855, 633136096}));
  EXPECT_FLOAT_EQ(random.uniform(), 0.0533029f);
  EXPECT_NEAR(random.normal(), 1.5447741398082295, 1e-12);
  EXPECT_EQ(permutation(8, 5, Purpose::shuffle, 1), (std::vector<std::uint32_t>{2, 4, 5, 3, 7, 6, 0, 1}));
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
