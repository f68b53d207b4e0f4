#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "comm/gradients/gradient_exchange.hpp"
#include "support/tree_oracle.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {
namespace {

using test::nasty;
using test::tree_sum;

World threads(int workers, int slots = 0, double timeout_s = 20) {
  WorldOptions options;
  options.workers = workers;
  options.threads = slots;
  options.timeout_s = timeout_s;
  return World::threads(options);
}

class AnyWorkers : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Comm, AnyWorkers, testing::Range(1, 10));

TEST_P(AnyWorkers, SumsAlongTheTreeToTheBit) {
  const int workers = GetParam();
  constexpr std::size_t kCount = 65;
  World world = threads(workers);
  const std::vector<double> expected = tree_sum<double>(0, workers, kCount);
  world.run([&](Worker& worker) {
    for (int step = 0; step < 50; ++step) {
      std::vector<double> values(kCount);
      for (std::size_t i = 0; i < kCount; ++i) values[i] = nasty<double>(worker.index(), i);
      worker.all().all_reduce(std::span<double>(values), Reduce::sum, {"layer", step});
      ASSERT_EQ(0, std::memcmp(values.data(), expected.data(), kCount * sizeof(double))) << "step " << step;
    }
  });
}

TEST_P(AnyWorkers, MaxMinAndIntegers) {
  const int workers = GetParam();
  World world = threads(workers);
  world.run([&](Worker& worker) {
    std::vector<std::int64_t> ids{worker.index(), -worker.index()};
    worker.all().all_reduce(std::span<std::int64_t>(ids), Reduce::sum, {"ids"});
    EXPECT_EQ(ids[0], workers * (workers - 1) / 2);
    float high = static_cast<float>(worker.index()), low = high;
    worker.all().all_reduce(std::span<float>(&high, 1), Reduce::max, {"high"});
    worker.all().all_reduce(std::span<float>(&low, 1), Reduce::min, {"low"});
    EXPECT_EQ(high, static_cast<float>(workers - 1));
    EXPECT_EQ(low, 0.0F);
    double nan = worker.index() == workers / 2 ? NAN : 1.0;
    worker.all().all_reduce(std::span<double>(&nan, 1), Reduce::max, {"nan"});
    EXPECT_TRUE(std::isnan(nan));
  });
}

TEST_P(AnyWorkers, BroadcastBarrierAndLocalBarrier) {
  const int workers = GetParam();
  World world = threads(workers);
  std::atomic<int> arrived{0};
  world.run([&](Worker& worker) {
    for (int root = 0; root < workers; ++root) {
      std::array<int, 3> data{worker.index(), worker.index() + 1, worker.index() + 2};
      worker.all().broadcast(std::as_writable_bytes(std::span<int>(data)), root, {"parameters"});
      EXPECT_EQ(data[2], root + 2);
    }
    ++arrived;
    worker.local_barrier();
    EXPECT_EQ(arrived, workers);
    worker.all().barrier({"end"});
  });
}

TEST(CommThreads, EmptyContributionsAreCollectivesToo) {
  World world = threads(3);
  world.run([](Worker& worker) {
    worker.all().all_reduce(std::span<double>(), Reduce::sum, {"nothing"});
    worker.all().broadcast({}, 1, {"nothing"});
  });
}

TEST(CommThreads, GroupsAreIndependent) {
  World world = threads(8);
  world.run([](Worker& worker) {
    const Communicator pair = worker.group(2), four = worker.group(4), alone = worker.group(1), all = worker.group(8);
    EXPECT_EQ(pair.rank(), worker.index() % 2);
    EXPECT_EQ(four.rank(), worker.index() % 4);
    EXPECT_EQ(alone.size(), 1);
    EXPECT_EQ(all.size(), 8);
    // Groups make different numbers of calls: nobody waits for another group.
    for (int i = 0; i <= worker.index() / 2; ++i) {
      double value = worker.index();
      pair.all_reduce(std::span<double>(&value, 1), Reduce::sum, {"pair", i});
      EXPECT_EQ(value, worker.index() / 2 * 4 + 1);
    }
    double value = 1;
    four.all_reduce(std::span<double>(&value, 1), Reduce::sum, {"four"});
    alone.all_reduce(std::span<double>(&value, 1), Reduce::sum, {"alone"});
    all.all_reduce(std::span<double>(&value, 1), Reduce::sum, {"all"});
    EXPECT_EQ(value, 32);
  });
}

TEST(CommThreads, DuplicatesAndNodeGroupHaveTheirOwnStreams) {
  World world = threads(3);
  world.run([](Worker& worker) {
    const Communicator copy = worker.duplicate(), node = worker.node_group();
    EXPECT_EQ(node.size(), 3);
    std::vector<double> a{1}, b{2};
    copy.start_all_reduce(a, Reduce::sum, {"a"});
    node.all_reduce(std::span<double>(b), Reduce::sum, {"b"});
    worker.all().barrier({"c"});
    copy.finish_all_reduce();
    EXPECT_EQ(a[0], 3);
    EXPECT_EQ(b[0], 6);
  });
}

TEST(CommThreads, GroupThatDoesNotDivideIsRefused) {
  World world = threads(8);
  try {
    world.run([](Worker& worker) { worker.group(3); });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "group of 3 does not divide 8 workers; use 1, 2, 4 or 8");
    EXPECT_EQ(error.code(), ExitCode::usage);
  }
}

TEST(CommThreads, WorkBetweenStartAndFinish) {
  World world = threads(4);
  world.run([](Worker& worker) {
    for (int step = 0; step < 200; ++step) {
      std::vector<double> values{1.0 * worker.index(), 1};
      worker.all().start_all_reduce(values, Reduce::sum, {"bn", step});
      if (worker.index() == step % 4) std::this_thread::yield();
      worker.all().finish_all_reduce();
      EXPECT_EQ(values[0], 6);
      EXPECT_EQ(values[1], 4);
    }
  });
}

// Workers of one thread have exceptions of their own, also those that they are just handling.
TEST(CommThreads, CollectivesWhileAnExceptionIsHandled) {
  World world = threads(8, 2);
  world.run([](Worker& worker) {
    for (int step = 0; step < 3; ++step) {
      std::string caught;
      try {
        try {
          throw Error(std::to_string(worker.index()));
        } catch (const Error&) {
          worker.all().barrier({"caught", step});
          throw;
        }
      } catch (const Error& error) {
        worker.all().barrier({"rethrown", step});
        caught = error.what();
      }
      EXPECT_EQ(caught, std::to_string(worker.index()));
      EXPECT_EQ(std::uncaught_exceptions(), 0);
    }
  });
}

TEST(CommThreads, ManyWorkersOnFewThreadsNeverComputeAtTheSameTime) {
  World world = threads(64, 2);
  EXPECT_EQ(world.threads(), 2);
  std::atomic<int> computing{0}, most{0};
  world.run([&](Worker& worker) {
    for (int step = 0; step < 5; ++step) {
      const int now = ++computing;
      int seen = most.load();
      while (now > seen && !most.compare_exchange_weak(seen, now)) {
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      --computing;
      double value = 1;
      worker.all().all_reduce(std::span<double>(&value, 1), Reduce::sum, {"step", step});
      EXPECT_EQ(value, 64);
    }
  });
  EXPECT_EQ(most, 2);
}

TEST(CommThreads, RunsAgainAndCountsWaiting) {
  World world = threads(2);
  for (int run = 0; run < 3; ++run)
    world.run([&](Worker& worker) {
      if (worker.index() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(30));
      worker.all().barrier({"run", run});
      if (worker.index() == 0) {
        EXPECT_GT(worker.all().waited_seconds(), 0.02);
      }
    });
}

}  // namespace
}  // namespace syncbn
