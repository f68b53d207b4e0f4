#include "syncbn/core/text.hpp"

#include <gtest/gtest.h>

namespace syncbn {
namespace {

TEST(Nearest, FindsWhatWasMeant) {
  const std::vector<std::string> names = {"sgd", "adagrad", "adam", "adamw", "lars", "lamb"};
  EXPECT_EQ(nearest("sdg", names), "sgd");
  EXPECT_EQ(nearest("Adam", names), "adam");
  EXPECT_EQ(nearest("adma", names), "adam");
  EXPECT_EQ(nearest("adamW", names), "adamw");
  EXPECT_EQ(nearest("ada_grad", names), "adagrad");
  EXPECT_EQ(nearest("batch_per_wroker", {"workers", "batch_per_worker"}), "batch_per_worker");
}

TEST(Nearest, StaysSilentWhenNothingIsClose) {
  EXPECT_EQ(nearest("rmsprop", {"sgd", "adam"}), "");
  EXPECT_EQ(nearest("", {"sgd"}), "");
  EXPECT_EQ(nearest("x", {}), "");
}

}  // namespace
}  // namespace syncbn
