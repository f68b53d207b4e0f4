#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <thread>

#include "comm/links/mpi_transport.hpp"
#include "distributed/mpi_world.hpp"
#include "support/disagreement.hpp"
#include "support/failures.hpp"
#include "support/gradients.hpp"

namespace syncbn {
namespace {

using test::contains;
using test::failure_of;
using test::mpi_world;

std::string rank_text(const World& world, int rank) {
  return "rank " + std::to_string(rank) + " (" + world.hosts()[rank];
}

// One worker per rank and two: the disagreement is met between ranks, or first within one.
TEST(DistributedFailures, EveryDisagreementIsNamedOnEveryRank) {
  const int ranks = test::job_ranks();
  if (ranks == 1) return;  // met by the thread tests
  for (const test::Disagreement& d : test::disagreements()) {
    World world = mpi_world(2 * ranks);
    std::atomic<int> used{0};
    // Both workers of the last rank differ, so that the ranks must find out.
    const std::string text = failure_of(world, [&](Worker& worker) {
      test::make(worker.all(), {.layer = "before", .step = 6});
      test::make(worker.all(), worker.index() >= 2 * ranks - 2 ? d.other : d.usual);
      ++used;
    });
    EXPECT_TRUE(contains(text, std::string("the ") + d.field + " differs")) << text;
    EXPECT_TRUE(contains(text, rank_text(world, ranks - 1))) << text;
    EXPECT_TRUE(contains(text, ", workers " + std::to_string(2 * ranks - 2) + "-" + std::to_string(2 * ranks - 1)))
        << text;
    EXPECT_TRUE(contains(text, d.usual_text)) << text;
    EXPECT_TRUE(contains(text, d.other_text)) << text;
    EXPECT_EQ(used, 0);
  }
}

TEST(DistributedFailures, DisagreementWithinOneRankReachesTheOthers) {
  const int ranks = test::job_ranks();
  World world = mpi_world(2 * ranks);
  const int odd = 2 * ranks - 1;
  const std::string text = failure_of(
      world, [&](Worker& worker) { test::make(worker.all(), {.layer = worker.index() == odd ? "bn2" : "bn1"}); });
  EXPECT_TRUE(contains(text, "worker " + std::to_string(odd) + " (rank " + std::to_string(ranks - 1))) << text;
  EXPECT_TRUE(contains(text, "layer 'bn2' step 7")) << text;
}

TEST(DistributedFailures, AnExceptionReachesEveryRankSoon) {
  const int ranks = test::job_ranks();
  World world = mpi_world(ranks + 1);
  const auto start = std::chrono::steady_clock::now();
  ExitCode code = ExitCode::ok;
  std::string text;
  try {
    world.run([&](Worker& worker) {
      for (int step = 0;; ++step) {
        if (worker.index() == ranks && step == 5) throw Error("loss is NaN in step 5", ExitCode::bad_data);
        test::make(worker.all(), {"bn1", step});
      }
    });
  } catch (const Error& error) {
    text = error.what();
    code = error.code();
  }
  EXPECT_TRUE(contains(text, "loss is NaN in step 5")) << text;
  EXPECT_EQ(code, ExitCode::bad_data);
  if (world.rank() != ranks - 1) {
    EXPECT_TRUE(contains(text, rank_text(world, ranks - 1))) << text;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(DistributedFailures, WorkersThatShareARankMeetWithinRunOnly) {
  const int ranks = test::job_ranks();
  for (const int workers : {2 * ranks, ranks + 1}) {  // also of ranks that have one
    World world = mpi_world(workers);
    Communicator kept;
    world.run([&](Worker& worker) {
      const Communicator all = worker.duplicate();
      if (worker.local_index() == 0) kept = all;
    });
    try {
      kept.barrier({"kept", 4});
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_TRUE(contains(error.what(), "layer 'kept' step 4")) << error.what();
      EXPECT_TRUE(contains(error.what(), "outside World::run")) << error.what();
    }
    world.run([&](Worker& worker) { test::make(worker.all(), {"bn1", 1}); });  // nothing has been begun
  }
}

TEST(DistributedFailures, RanksThatMakeCommonMemoryAnnounceNone) {
  WorldOptions options;
  options.workers = test::job_ranks();
  const auto transport = detail::connect_mpi(options, static_cast<int>(MPI_Comm_c2f(MPI_COMM_WORLD))).transport;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank == 0) {  // comes later, and looks after the others meanwhile
    for (int i = 0; i < 100; ++i) {
      const auto failure = transport->announced();
      ASSERT_FALSE(failure) << failure->message;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  EXPECT_FALSE(transport->share({0, test::job_ranks()}, nullptr, 0)) << "nothing was asked for";
}

TEST(DistributedFailures, AStuckRankIsNamedAfterTheTimeout) {
  const int ranks = test::job_ranks();
  if (ranks == 1) return;
  World world = mpi_world(ranks, Reduction::ordered, 2);  // a quarter of it is what those who know less wait longer
  const std::string text = failure_of(world, [&](Worker& worker) {
    test::make(worker.all(), {"bn1", 3});
    if (worker.index() == ranks - 1) std::this_thread::sleep_for(std::chrono::seconds(5));
    test::make(worker.all(), {"bn2", 3});
    worker.all().barrier({"end", 3});  // what the others sent is enough for bn2, so here the late one learns of it
  });
  const std::string named = " s for " + rank_text(world, ranks - 1);
  EXPECT_TRUE(contains(text, named)) << text;
  EXPECT_TRUE(contains(text, "layer 'bn2' step 3")) << text;
  if (world.nodes() == std::vector<int>{0, 0, 2}) {  // from another machine one cannot see for whom a rank waits
    EXPECT_TRUE(contains(text, "), or another rank of its machine: dead")) << text;
  }
}

// The rank of the missing worker knows which one it is; the others, that wait for the rank, must hear it from there.
TEST(DistributedFailures, AStuckWorkerIsNamedOnEveryRank) {
  const int ranks = test::job_ranks();
  World world = mpi_world(3 * ranks, Reduction::ordered, 1, 3);  // a thread for each worker
  const int stuck = 3 * ranks - 2;
  const std::string text = failure_of(world, [&](Worker& worker) {
    test::make(worker.all(), {"bn1", 3});
    if (worker.index() == stuck) std::this_thread::sleep_for(std::chrono::seconds(3));
    test::make(worker.all(), {"bn2", 3});
  });
  EXPECT_TRUE(contains(text, "for worker " + std::to_string(stuck) + " (rank " + std::to_string(ranks - 1))) << text;
  EXPECT_TRUE(contains(text, "layer 'bn2' step 3")) << text;
  EXPECT_TRUE(contains(text, "last seen at layer 'bn1' step 3")) << text;
}

TEST(DistributedFailures, GradientsOfDifferentStepsAreRefused) {
  const int ranks = test::job_ranks();
  if (ranks == 1) return;
  World world = mpi_world(ranks);
  GradientExchange exchange(world, {{0, 10}, {10, 10}}, 20, true);
  const std::string text = failure_of(world, [&](Worker& worker) {
    exchange.begin(worker, worker.index() == ranks - 1 ? 8 : 7);
    exchange.ready(worker, 0);
    exchange.ready(worker, 1);
    exchange.wait(worker);
  });
  EXPECT_TRUE(contains(text, "the step differs")) << text;
  EXPECT_TRUE(contains(text, "layer 'gradients[bucket 0]' step 8")) << text;
}

}  // namespace
}  // namespace syncbn
