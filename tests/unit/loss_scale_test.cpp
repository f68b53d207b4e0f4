#include "train/loss_scale.hpp"

#include <gtest/gtest.h>

namespace syncbn::test {
namespace {

TEST(LossScale, HalvesAtOnceAndDoublesAfter2000FiniteUpdates) {
  LossScale scale(true);
  EXPECT_EQ(scale.value(), 65536);
  scale.update(false);
  EXPECT_EQ(scale.value(), 32768);
  for (int i = 0; i < 1999; ++i) scale.update(true);
  scale.update(false);  // counts anew
  EXPECT_EQ(scale.value(), 16384);
  for (int i = 0; i < 1999; ++i) scale.update(true);
  EXPECT_EQ(scale.value(), 16384);
  scale.update(true);
  EXPECT_EQ(scale.value(), 32768);
  for (int i = 0; i < 2000; ++i) scale.update(true);
  EXPECT_EQ(scale.value(), 65536);
}

TEST(LossScale, GoesOnFromACheckpoint) {
  LossScale scale(true), resumed(true);
  scale.update(false);
  for (int i = 0; i < 1500; ++i) scale.update(true);
  resumed.restore(scale.scalars());
  EXPECT_EQ(resumed.value(), 32768);
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(resumed.value(), 32768);
    resumed.update(true);
  }
  EXPECT_EQ(resumed.value(), 65536);
}

TEST(LossScale, IsExhaustedWhenItCannotBeTheReason) {
  LossScale scale(true);
  for (int halvings = 0; halvings < 16 + 13; ++halvings) scale.update(false);
  EXPECT_FALSE(scale.exhausted());
  scale.update(false);
  EXPECT_TRUE(scale.exhausted());
}

TEST(LossScale, IsOneForOtherTypes) {
  LossScale scale(false);
  scale.update(false);
  EXPECT_EQ(scale.value(), 1);
  EXPECT_FALSE(scale.exhausted());
  EXPECT_TRUE(scale.scalars().empty());
}

}  // namespace
}  // namespace syncbn::test
