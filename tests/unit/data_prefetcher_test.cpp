#include "data/loading/prefetcher.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "unit/data_files.hpp"

namespace syncbn::test {
namespace {

class PrefetcherThreads : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Of, PrefetcherThreads, ::testing::Values(1, 2, 5));

TEST_P(PrefetcherThreads, HandOnWhatFailedInTheBackground) {
  const int threads = GetParam();
  Prefetcher prefetcher(2, 3, threads, [](std::int64_t round, int consumer, Batch& batch) {
    if (round == 2 && consumer == 1) throw Error("the disk is gone", ExitCode::bad_data);
    batch.n = round;
  });
  for (std::int64_t round = 0; round < 2; ++round)
    for (int consumer = 0; consumer < 2; ++consumer) EXPECT_EQ(prefetcher.next(consumer).n, round);
  EXPECT_EQ(prefetcher.next(0).n, 2);
  for (int again = 0; again < 2; ++again)
    for (int consumer : {1, 0})
      EXPECT_EQ(message_of(ExitCode::bad_data, [&] { prefetcher.next(consumer); }), "the disk is gone");
}

/// Consumers are told of the same error in every run: the one they would have met without threads.
TEST(Prefetcher, OfTwoErrorsReportsThatOfTheEarlierBatch) {
  for (const int hasty : {0, 1}) {
    std::atomic<int> begun{0}, failed{0};
    Prefetcher prefetcher(2, 1, 2, [&](std::int64_t, int consumer, Batch&) {
      const auto wait_for = [](const std::atomic<int>& count, int wanted) {
        while (count < wanted) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      };
      ++begun;
      wait_for(begun, 2);
      if (consumer != hasty) wait_for(failed, 1), std::this_thread::sleep_for(std::chrono::milliseconds(30));
      ++failed;
      throw Error("batch " + std::to_string(consumer), ExitCode::bad_data);
    });
    while (failed < 2) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    for (const int consumer : {1, 0})
      ASSERT_EQ(message_of(ExitCode::bad_data, [&] { prefetcher.next(consumer); }), "batch 0");
  }
}

TEST_P(PrefetcherThreads, RunAheadButNotTooFar) {
  std::atomic<std::int64_t> filled{0};
  Prefetcher prefetcher(1, 3, GetParam(), [&](std::int64_t, int, Batch&) { ++filled; });
  const auto wait_for = [&](std::int64_t rounds) {
    for (int i = 0; i < 2000 && filled < rounds; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(filled, rounds);
  };
  wait_for(3);
  prefetcher.next(0);
  wait_for(4);  // one in use, three ahead
  prefetcher.next(0);
  wait_for(5);
}

/// Threads that take different times must not mix up batches.
TEST_P(PrefetcherThreads, KeepTheOrder) {
  Prefetcher prefetcher(3, 4, GetParam(), [](std::int64_t round, int consumer, Batch& batch) {
    std::this_thread::sleep_for(std::chrono::microseconds((round * 7 + consumer * 3) % 5 * 200));
    batch.n = 10 * round + consumer;
  });
  for (std::int64_t round = 0; round < 40; ++round)
    for (int consumer = 0; consumer < 3; ++consumer) EXPECT_EQ(prefetcher.next(consumer).n, 10 * round + consumer);
}

}  // namespace
}  // namespace syncbn::test
