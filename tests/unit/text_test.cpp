#include "core/text.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "syncbn/core/error.hpp"

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

TEST(Numbers, AreTheWholeText) {
  EXPECT_EQ(parse_whole<int>("-12"), -12);
  EXPECT_EQ(parse_whole<double>("1e-3"), 1e-3);
  for (const char* text : {"", " 1", "1 ", "+1", "1x", "x", "99999999999"})
    EXPECT_EQ(parse_whole<int>(text), std::nullopt);
  for (const char* text : {"", "1e", "1e999", "0x1"}) EXPECT_EQ(parse_whole<double>(text), std::nullopt) << text;
}

TEST(Numbers, AreCounted) {
  EXPECT_EQ(counted(0, "rank"), "0 ranks");
  EXPECT_EQ(counted(1, "rank"), "1 rank");
  EXPECT_EQ(counted(2, "rank"), "2 ranks");
}

TEST(Lines, AreTakenOffOneByOne) {
  std::string_view text = "a\n\nb";
  EXPECT_EQ(take_line(text), "a");
  EXPECT_EQ(take_line(text), "");
  EXPECT_EQ(take_line(text), "b");
  EXPECT_EQ(text, "");
  EXPECT_EQ(take_line(text), "");
}

TEST(Utf8, IsToldFromOtherBytes) {
  for (const char* text : {"", "plain", "\u00e9", "\u20ac", "\U0001f600", "\U0010ffff"})
    EXPECT_TRUE(is_utf8(text)) << text;
  for (const char* text : {"lat\xe9", "\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
                           "\xf4\x90\x80\x80", "\xff", "\xe2\x82"}) {
    EXPECT_FALSE(is_utf8(text)) << text;
  }
}

TEST(ExactNumbers, ComeBackToTheBit) {
  using Limits = std::numeric_limits<double>;
  for (const double value : {0.0, -0.0, 0.1, -1.0 / 3, 1e300, Limits::min(), Limits::denorm_min(), -3e-320,
                             Limits::max(), Limits::infinity(), -Limits::infinity()}) {
    const double back = read_exact(write_exact(value));
    EXPECT_EQ(std::bit_cast<std::uint64_t>(back), std::bit_cast<std::uint64_t>(value)) << value;
  }
  EXPECT_TRUE(std::isnan(read_exact(write_exact(Limits::quiet_NaN()))));
  for (const char* text : {"", "-", "one", "0x", "0x1p0 ", "1,5"}) EXPECT_THROW(read_exact(text), Error) << text;
}

}  // namespace
}  // namespace syncbn
