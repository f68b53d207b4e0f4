#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <thread>
#include <vector>

#include "distributed/mpi_world.hpp"
#include "support/tree_oracle.hpp"

namespace syncbn {
namespace {

using test::mpi_world;
using test::nasty;
using test::tree_sum;

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
std::vector<T> contribution(int worker, std::size_t count) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = nasty<T>(worker, i);
  return values;
}

/// W = 4..9 over 1..4 ranks: even and uneven, aligned and not.
class DistributedComm : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Workers, DistributedComm, testing::Range(4, 10));

TEST_P(DistributedComm, SumsHaveTheBitsOfTheTreeAtAnySize) {
  const int workers = GetParam();
  World world = mpi_world(workers);
  // one value, a statistics message, both sides of the limit between whole and sharded, odd sizes, 1 MiB
  for (const std::size_t count : {1UL, 33UL, 8192UL, 8193UL, 20011UL, 131072UL}) {
    const std::vector<double> expected = tree_sum<double>(0, workers, count);
    world.run([&](Worker& worker) {
      for (int step = 0; step < 3; ++step) {
        auto values = contribution<double>(worker.index(), count);
        worker.all().all_reduce(std::span<double>(values), Reduce::sum, {"bn", step});
        EXPECT_TRUE(same_bits(values, expected)) << "worker " << worker.index() << ", " << count << " values";
      }
    });
  }
}

TEST_P(DistributedComm, CallsOncePerRankWhenAllHaveCome) {
  const int workers = GetParam();
  World world = mpi_world(workers);
  for (const int size : {1, workers}) {  // a member alone is a group as well
    std::vector<std::atomic<int>> calls(50);
    world.run([&](Worker& worker) {
      const Communicator group = worker.group(size);
      for (int step = 0; step < static_cast<int>(calls.size()); ++step) {
        double members = 1;
        group.start_all_reduce(std::span<double>(&members, 1), Reduce::sum, {"bn", step},
                               [&calls, step] { ++calls[step]; });
        group.finish_all_reduce();
        EXPECT_EQ(members, size);
        if (size > 1) {
          EXPECT_EQ(calls[step], 1);
        }
      }
    });
    for (const auto& count : calls) EXPECT_EQ(count, size > 1 ? 1 : world.local_workers());
  }
}

TEST_P(DistributedComm, EqualsTheThreadTransport) {
  const int workers = GetParam();
  std::map<int, std::vector<float>> alone;
  std::mutex mutex;
  const auto body = [&](Worker& worker, std::vector<float>& values) {
    values = contribution<float>(worker.index(), 40000);
    worker.all().all_reduce(std::span<float>(values), Reduce::sum, {"sum"});
    std::vector<float> extremes = contribution<float>(worker.index(), 77);
    worker.all().all_reduce(std::span<float>(extremes), Reduce::max, {"max"});
    values.insert(values.end(), extremes.begin(), extremes.end());
    worker.all().all_reduce(std::span<float>(extremes), Reduce::min, {"min"});
    values.insert(values.end(), extremes.begin(), extremes.end());
  };
  test::thread_world(workers).run([&](Worker& worker) {
    std::vector<float> values;
    body(worker, values);
    std::lock_guard lock(mutex);
    alone[worker.index()] = values;
  });
  mpi_world(workers).run([&](Worker& worker) {
    std::vector<float> values;
    body(worker, values);
    EXPECT_TRUE(same_bits(values, alone[worker.index()])) << "worker " << worker.index();
  });
}

TEST_P(DistributedComm, IntegersNanBroadcastBarrierAndNothing) {
  const int workers = GetParam();
  mpi_world(workers).run([&](Worker& worker) {
    std::vector<std::int64_t> ids{worker.index(), 1};
    worker.all().all_reduce(std::span<std::int64_t>(ids), Reduce::sum, {"ids"});
    EXPECT_EQ(ids[0], workers * (workers - 1) / 2);
    EXPECT_EQ(ids[1], workers);
    double nan = worker.index() == workers / 2 ? NAN : 1.0;
    worker.all().all_reduce(std::span<double>(&nan, 1), Reduce::min, {"nan"});
    EXPECT_TRUE(std::isnan(nan));
    worker.all().all_reduce(std::span<double>(), Reduce::sum, {"nothing"});
    for (int root = 0; root < workers; ++root) {
      std::vector<int> data(root % 2 ? 3 : 50000, worker.index());
      worker.all().broadcast(std::as_writable_bytes(std::span<int>(data)), root, {"parameters"});
      EXPECT_EQ(data.front(), root);
      EXPECT_EQ(data.back(), root);
    }
    worker.all().barrier({"end"});
    worker.local_barrier();
  });
}

TEST_P(DistributedComm, EveryGroupSizeReducesOverItsOwnTree) {
  const int workers = GetParam();
  World world = mpi_world(workers);
  for (int size = 1; size <= workers; ++size) {
    if (workers % size != 0) continue;
    world.run([&](Worker& worker) {
      const Communicator group = worker.group(size);
      EXPECT_EQ(group.size(), size);
      EXPECT_EQ(group.rank(), worker.index() % size);
      const int base = worker.index() / size * size;
      // Different groups make different numbers of calls, and two streams interleave.
      for (int step = 0; step < 3 + base; ++step) {
        auto values = contribution<double>(worker.index(), 100);
        group.start_all_reduce(values, Reduce::sum, {"group", step});
        if (step < 3) worker.all().barrier({"between", step});
        group.finish_all_reduce();
        EXPECT_TRUE(same_bits(values, tree_sum<double>(base, size, 100)));
      }
    });
  }
}

TEST_P(DistributedComm, DuplicatesAreIndependentStreams) {
  const int workers = GetParam();
  mpi_world(workers).run([&](Worker& worker) {
    const Communicator copy = worker.duplicate();
    for (int step = 0; step < 100; ++step) {
      auto a = contribution<double>(worker.index(), 50), b = contribution<double>(worker.index(), 9000);
      copy.start_all_reduce(a, Reduce::sum, {"a", step});
      worker.all().all_reduce(std::span<double>(b), Reduce::sum, {"b", step});
      if (worker.index() % 3 == step % 3) std::this_thread::yield();
      copy.finish_all_reduce();
      EXPECT_TRUE(same_bits(a, tree_sum<double>(0, workers, 50)));
      EXPECT_TRUE(same_bits(b, tree_sum<double>(0, workers, 9000)));
    }
  });
}

TEST_P(DistributedComm, NativeReductionAgreesWithinRounding) {
  const int workers = GetParam();
  mpi_world(workers, Reduction::native).run([&](Worker& worker) {
    const Communicator pair = workers % 2 == 0 ? worker.group(2) : worker.duplicate();
    for (const std::size_t count : {0UL, 1UL, 500UL, 20000UL}) {
      std::vector<double> values(count, 0.1 * (worker.index() + 1));
      worker.all().all_reduce(std::span<double>(values), Reduce::sum, {"native"});
      for (const double value : values) EXPECT_NEAR(value, 0.05 * workers * (workers + 1), 1e-12);
      std::vector<double> shared(count, 1);
      pair.all_reduce(std::span<double>(shared), Reduce::sum, {"pair"});
      for (const double value : shared) EXPECT_EQ(value, pair.size());
    }
  });
}

TEST_P(DistributedComm, OneSlotPerRank) {
  const int workers = GetParam();
  World world = mpi_world(workers, Reduction::ordered, 30, 1);
  EXPECT_EQ(world.threads(), 1);
  world.run([&](Worker& worker) {
    for (int step = 0; step < 20; ++step) {
      double one = 1;
      worker.all().all_reduce(std::span<double>(&one, 1), Reduce::sum, {"one", step});
      EXPECT_EQ(one, workers);
    }
  });
}

TEST(DistributedWorld, PlacesConsecutiveWorkers) {
  World world = mpi_world(9);
  const int ranks = test::job_ranks(), rank = world.rank();
  EXPECT_EQ(world.ranks(), ranks);
  EXPECT_EQ(world.rank(), rank);
  EXPECT_EQ(world.first_worker(), rank * 9 / ranks);
  EXPECT_EQ(world.local_workers(), (rank + 1) * 9 / ranks - rank * 9 / ranks);
  EXPECT_EQ(static_cast<int>(world.hosts().size()), ranks);
  EXPECT_EQ(static_cast<int>(world.nodes().size()), ranks);
  const char* simulated = std::getenv("SYNCBN_RANKS_PER_NODE");
  int here = 0;  // workers on this machine
  for (int r = 0; r < ranks; ++r) {
    const bool same = world.hosts()[r] == world.hosts()[rank];
    const bool together = simulated ? r / std::atoi(simulated) == rank / std::atoi(simulated) : same;
    EXPECT_EQ(world.nodes()[r] == world.nodes()[rank], together);
    if (together) here += (r + 1) * 9 / ranks - r * 9 / ranks;
  }
  world.run([&](Worker& worker) { EXPECT_EQ(worker.node_group().size(), here); });
}

TEST(DistributedWorld, TalksBetweenRanksOutsideRun) {
  const int ranks = test::job_ranks();
  const World world = mpi_world(ranks + 1);
  const int rank = world.rank();
  EXPECT_EQ(world.max_over_ranks(rank), ranks - 1);
  EXPECT_EQ(world.max_over_ranks(-1), -1);
  for (const int odd : {0, ranks - 1}) EXPECT_TRUE(std::isnan(world.max_over_ranks(rank == odd ? std::nan("") : rank)));
  EXPECT_EQ(world.broadcast("from " + std::to_string(rank)), "from 0");
  EXPECT_EQ(world.broadcast(rank == 0 ? std::string(100001, 'x') : ""), std::string(100001, 'x'));
  EXPECT_NO_THROW(world.require_same("configuration", "seed: 1\nworkers: 8\n"));
  EXPECT_NO_THROW(world.require_same("configuration", ""));
}

TEST(DistributedWorld, NamesTheFirstRankThatDiffers) {
  const int ranks = test::job_ranks();
  const World world = mpi_world(ranks);
  const int rank = world.rank();
  const std::string mine = std::string("seed: 1\nlr: ") + (rank == ranks - 1 ? "0.2" : "0.1") + "\nworkers: 8\n";
  if (ranks == 1) {
    EXPECT_NO_THROW(world.require_same("configuration", mine));
    return;
  }
  try {
    world.require_same("configuration", mine);
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(text.find("configuration of rank " + std::to_string(ranks - 1)), std::string::npos) << text;
    EXPECT_NE(text.find("line 2: 'lr: 0.2' against 'lr: 0.1'"), std::string::npos) << text;
  }
}

TEST(DistributedWorld, RefusesMoreRanksThanWorkers) {
  const int ranks = test::job_ranks();
  if (ranks == 1) {
    EXPECT_THROW(mpi_world(0), Error);
    return;
  }
  try {
    mpi_world(ranks - 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_EQ(std::string(error.what()), std::to_string(ranks - 1) + " workers cannot be spread over " +
                                             std::to_string(ranks) + " ranks; start at most " +
                                             std::to_string(ranks - 1) + " ranks or set workers to at least " +
                                             std::to_string(ranks));
  }
}

TEST(DistributedWorld, RefusesRanksWithOtherReductions) {
  const int ranks = test::job_ranks(), rank = mpi_world(ranks).rank();
  if (ranks == 1) return;
  try {
    mpi_world(ranks, rank == 1 ? Reduction::native : Reduction::ordered);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    const std::string workers = " with " + std::to_string(ranks), message = error.what();
    EXPECT_EQ(message.find("rank 1 ("), 0u) << message;
    EXPECT_NE(message.find(workers + " workers (native reduction), rank 0 ("), std::string::npos) << message;
    EXPECT_NE(message.find(workers + " (ordered); start every rank alike"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace syncbn
