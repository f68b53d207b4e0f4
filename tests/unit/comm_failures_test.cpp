#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <thread>

#include "comm/gradients/gradient_exchange.hpp"
#include "comm/rank_context.hpp"
#include "support/disagreement.hpp"
#include "support/failures.hpp"

namespace syncbn {
namespace {

using test::contains;
using test::failure_of;

World threads(int workers, double timeout_s = 20, int slots = 0) {
  WorldOptions options;
  options.workers = workers;
  options.threads = slots;
  options.timeout_s = timeout_s;
  return World::threads(options);
}

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

TEST(CommFailures, EveryDisagreementIsNamedBeforeTheResultIsUsed) {
  for (const test::Disagreement& d : test::disagreements()) {
    World world = threads(4);
    std::atomic<int> used{0};
    const std::string text = failure_of(world, [&](Worker& worker) {
      test::make(worker.all(), {.layer = "before", .step = 6});
      test::make(worker.all(), worker.index() == 2 ? d.other : d.usual);
      ++used;
    });
    EXPECT_TRUE(contains(text, std::string("the ") + d.field + " differs")) << text;
    EXPECT_TRUE(contains(text, "worker 2 (rank 0")) << text;
    EXPECT_TRUE(contains(text, "worker 0 (rank 0")) << text;
    EXPECT_TRUE(contains(text, d.usual_text)) << text;
    EXPECT_TRUE(contains(text, d.other_text)) << text;
    EXPECT_EQ(used, 0);
  }
}

TEST(CommFailures, DisagreementOnGroupsIsNamed) {
  World world = threads(4);
  const std::string text = failure_of(world, [](Worker& worker) { worker.group(worker.index() == 3 ? 4 : 2); });
  EXPECT_TRUE(contains(text, "group of 4")) << text;
  EXPECT_TRUE(contains(text, "group of 2")) << text;
}

TEST(CommFailures, ASkippedLayerIsNamed) {
  World world = threads(4);
  const std::string text = failure_of(world, [](Worker& worker) {
    for (int step = 0; step < 3; ++step)
      for (const char* layer : {"bn1", "bn2", "bn3"})
        if (worker.index() != 1 || step != 1 || layer != std::string("bn2")) test::make(worker.all(), {layer, step});
  });
  EXPECT_TRUE(contains(text, "worker 1 (rank 0")) << text;
  EXPECT_TRUE(contains(text, "layer 'bn3' step 1")) << text;
  EXPECT_TRUE(contains(text, "layer 'bn2' step 1")) << text;
}

TEST(CommFailures, AStuckWorkerIsNamedAfterTheTimeout) {
  for (const int slots : {0, 1}) {
    World world = threads(4, 0.3, slots);
    const Stopwatch watch;
    const std::string text = failure_of(world, [](Worker& worker) {
      test::make(worker.all(), {"bn1", 4});
      if (worker.index() == 3) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
      test::make(worker.all(), {"bn2", 4});
    });
    // On one thread the others may still be waiting for it when the stuck one has it.
    EXPECT_TRUE(contains(
        text, slots == 0 ? "has waited 0.3 s at layer 'bn2' step 4 (all_reduce sum f64 x 33)" : "has waited 0.3 s"))
        << text;
    EXPECT_TRUE(contains(text, "worker 3 (rank 0")) << text;
    EXPECT_TRUE(contains(text, "last seen at layer 'bn1' step 4")) << text;
    EXPECT_LT(watch.seconds(), 4);
  }
}

TEST(CommFailures, AnExceptionOnOneWorkerEndsTheOthers) {
  World world = threads(8);
  const Stopwatch watch;
  std::atomic<int> aborted{0};
  try {
    world.run([&](Worker& worker) {
      if (worker.index() == 5) throw Error("loss is NaN in step 12", ExitCode::bad_data);
      try {
        test::make(worker.all(), {});
      } catch (const Aborted&) {
        ++aborted;
        throw;
      }
    });
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "loss is NaN in step 12");
    EXPECT_EQ(error.code(), ExitCode::bad_data);
  }
  EXPECT_EQ(aborted, 7);
  EXPECT_LT(watch.seconds(), 2);
  EXPECT_THROW(world.run([](Worker&) {}), Error);
}

TEST(CommFailures, ForeignExceptionsPassThrough) {
  World world = threads(2);
  EXPECT_THROW(world.run([](Worker& worker) {
    if (worker.index() == 1) throw std::out_of_range("index");
    worker.all().barrier({"end"});
  }),
               std::out_of_range);
}

TEST(CommFailures, RunIsNotCalledWithinItself) {
  for (const int workers : {1, 4}) {
    World world = threads(workers, 20, 1);
    const std::string text = failure_of(world, [&](Worker&) { world.run([](Worker&) {}); });
    EXPECT_TRUE(contains(text, "called while it runs")) << text;
  }
  World world = threads(2);
  for (int again = 0; again < 2; ++again) world.run([](Worker& worker) { worker.all().barrier({"end"}); });
}

TEST(CommFailures, AWorkerThatLeavesEarlyIsNamedAtOnce) {
  World world = threads(4);
  const Stopwatch watch;
  const std::string text = failure_of(world, [](Worker& worker) {
    test::make(worker.all(), {"bn1", 1});
    if (worker.index() != 3) test::make(worker.all(), {"bn2", 1});
  });
  EXPECT_TRUE(contains(text, "waits at layer 'bn2' step 1")) << text;
  EXPECT_TRUE(contains(text, "worker 3 (rank 0")) << text;
  EXPECT_TRUE(
      contains(text, "last seen at layer 'bn1' step 1 (all_reduce sum f64 x 33) (has finished its work and left)"))
      << text;
  EXPECT_LT(watch.seconds(), 2);
}

TEST(CommFailures, FailureBetweenStartAndFinish) {
  World world = threads(4);
  const std::string text = failure_of(world, [](Worker& worker) {
    auto values = std::make_unique<std::vector<double>>(1000, 1.0);
    worker.all().start_all_reduce(*values, Reduce::sum, {"bn1", 1});
    if (worker.index() == 0) throw Error("out of luck");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    worker.all().finish_all_reduce();
    worker.all().barrier({"end"});
  });
  EXPECT_EQ(text, "out of luck");
}

TEST(CommFailures, StartTwiceAndFinishWithoutStart) {
  World twice = threads(2);
  EXPECT_TRUE(contains(failure_of(twice,
                                  [](Worker& worker) {
                                    std::vector<double> a(1), b(1);
                                    worker.all().start_all_reduce(a, Reduce::sum, {"a"});
                                    worker.all().start_all_reduce(b, Reduce::sum, {"b"});
                                  }),
                       "before it has finished the one under way"));
  World never = threads(2);
  EXPECT_TRUE(contains(failure_of(never, [](Worker& worker) { worker.all().finish_all_reduce(); }), "has not started"));
}

TEST(CommFailures, AWorkerFinishesWhatItHasStarted) {
  const auto leave = [](const Communicator& communicator, const char* layer) {
    std::vector<double> values(3);
    communicator.start_all_reduce(values, Reduce::sum, {layer, 7});
  };
  World world = threads(2);
  EXPECT_EQ(failure_of(world,
                       [&](Worker& worker) {
                         const Communicator own = worker.duplicate();  // gone when the function has returned
                         if (worker.index() == 1) leave(own, "bn1");
                         worker.all().barrier({"end"});
                       }),
            world.context()->topology().describe_worker(1) +
                " has left World::run's function with a collective under way at layer 'bn1' step 7 (all_reduce sum f64 "
                "x 3): call finish_all_reduce() before it returns");
  World failed = threads(2);  // for another reason, which is told
  EXPECT_EQ(failure_of(failed,
                       [&](Worker& worker) {
                         leave(worker.all(), "bn1");
                         if (worker.index() == 0) throw Error("out of luck");
                         while (!worker.world().context()->failed()) std::this_thread::yield();
                       }),
            "out of luck");
}

TEST(CommFailures, CallsForRanksAreRefusedWithinRun) {
  const auto refusal = [](const std::function<void(const World&)>& call) {
    World world = threads(2);
    call(world);  // before, it works
    const std::string text = failure_of(world, [&](Worker&) { call(world); });
    EXPECT_TRUE(contains(text, "was called within World::run")) << text;
    return text;
  };
  EXPECT_TRUE(contains(refusal([](const World& w) { w.max_over_ranks(1); }), "use Worker::all().all_reduce()"));
  EXPECT_TRUE(contains(refusal([](const World& w) { w.require_same("build", "1"); }), "World::require_same"));
  EXPECT_TRUE(contains(refusal([](const World& w) { w.broadcast("x"); }), "use Worker::all().broadcast()"));
}

TEST(CommFailures, UnusableOptionsAreRefused) {
  EXPECT_THROW(threads(0), Error);
  EXPECT_THROW(threads(1, 0), Error);
  EXPECT_THROW(threads(1, 1, -1), Error);
}

TEST(CommFailuresDeathTest, AStuckWorkerCannotHoldUpTheEnd) {
  EXPECT_EXIT(
      {
        World world = threads(2);
        world.run([](Worker& worker) {
          if (worker.index() == 0) throw Error("disk full", ExitCode::unavailable);
          for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
        });
      },
      testing::ExitedWithCode(69), "syncbn: rank 0 .*: disk full");
}

TEST(CommFailuresDeathTest, AbortPrintsOneLineAndLeavesWithTheCode) {
  EXPECT_EXIT(threads(2).abort("no such key: lr", ExitCode::usage), testing::ExitedWithCode(2),
              "^syncbn: rank 0 \\(.*\\): no such key: lr\n$");
}

}  // namespace
}  // namespace syncbn
