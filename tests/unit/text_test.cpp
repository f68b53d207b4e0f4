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

TEST(Utf8, IsToldFromOtherBytes) {
  for (const char* text : {"", "plain", "\u00e9", "\u20ac", "\U0001f600", "\U0010ffff"})
    EXPECT_TRUE(is_utf8(text)) << text;
  for (const char* text : {"lat\xe9", "\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                           "\xf4\x90\x80\x80", "\xff", "\xe2\x82"}) {
    EXPECT_FALSE(is_utf8(text)) << text;
  }
}

}  // namespace
}  // namespace syncbn
