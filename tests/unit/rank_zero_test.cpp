#include "train/storage/rank_zero.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <system_error>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

std::string failure_of(const std::function<void()>& work) {
  WorldOptions alone;
  alone.threads = 1;
  try {
    on_rank_zero(World::threads(alone), work);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(RankZero, SaysWhatWentWrong) {
  EXPECT_EQ(failure_of([] {}), "no error");
  EXPECT_EQ(failure_of([] { throw std::runtime_error("the disk is gone"); }), "the disk is gone");
  EXPECT_THAT(failure_of([] { throw std::bad_alloc(); }), testing::StartsWith("out of memory; use a smaller "));
  EXPECT_THAT(
      failure_of([] { throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again)); }),
      testing::EndsWith("use threads=1 and data.threads=1"));
}

}  // namespace
}  // namespace syncbn
