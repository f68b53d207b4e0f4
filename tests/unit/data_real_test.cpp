#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "data/dataset.hpp"

// The official files, where $SYNCBN_DATA names a folder that holds them.

namespace syncbn::test {
namespace {

void expect_real(const char* kind, Split split, const std::vector<int>& class_counts) {
  if (!std::getenv("SYNCBN_DATA")) GTEST_SKIP() << "SYNCBN_DATA does not name a folder of data sets";
  const Dataset set = open_dataset(kind, "", split);
  std::vector<int> counts(static_cast<std::size_t>(set.classes()));
  for (std::int64_t i = 0; i < set.size(); ++i) ++counts[set.label(i)];
  EXPECT_EQ(counts, class_counts);
}

TEST(RealData, MnistTrain) {
  expect_real("mnist", Split::train, {5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949});
}
TEST(RealData, MnistTest) {
  expect_real("mnist", Split::test, {980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009});
}
TEST(RealData, FashionMnistTrain) {
  expect_real("fashion-mnist", Split::train, std::vector<int>(10, 6000));
}
TEST(RealData, FashionMnistTest) {
  expect_real("fashion-mnist", Split::test, std::vector<int>(10, 1000));
}
TEST(RealData, Cifar10Train) {
  expect_real("cifar10", Split::train, std::vector<int>(10, 5000));
}
TEST(RealData, Cifar10Test) {
  expect_real("cifar10", Split::test, std::vector<int>(10, 1000));
}

}  // namespace
}  // namespace syncbn::test
