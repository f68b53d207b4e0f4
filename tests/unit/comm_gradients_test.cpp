#include <gtest/gtest.h>

#include "support/failures.hpp"
#include "support/gradients.hpp"

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

class AnyWorkersGradients : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Comm, AnyWorkersGradients, testing::Range(1, 10));

TEST_P(AnyWorkersGradients, SumsAlongTheTreeWithAndWithoutOverlap) {
  constexpr std::int64_t kLength = 10007;
  const std::vector<float> expected = test::tree_sum<float>(0, GetParam(), kLength);
  for (const bool overlap : {true, false})
    for (const int slots : {0, 1}) {
      World world = threads(GetParam(), 20, slots);
      EXPECT_EQ(test::exchange_gradients(world, kLength, 1000, overlap), expected);
    }
}

TEST(CommGradients, EqualsAllReduceToTheBit) {
  World world = threads(6);
  const std::vector<float> result = test::exchange_gradients(world, 5000, 700, true);
  world.run([&](Worker& worker) {
    std::vector<float> values(5000);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = test::nasty<float>(worker.index(), i);
    worker.all().all_reduce(std::span<float>(values), Reduce::sum, {"gradients"});
    EXPECT_EQ(values, result);
  });
}

TEST(CommGradients, NoBucketsAtAll) {
  World world = threads(2);
  GradientExchange exchange(world, {}, 0, true);
  world.run([&](Worker& worker) {
    exchange.begin(worker, 0);
    exchange.wait(worker);
  });
  EXPECT_TRUE(exchange.result().empty());
}

std::string misuse(const std::function<void(GradientExchange&, Worker&)>& body) {
  World world = threads(2, 0.5);
  GradientExchange exchange(world, {{0, 4}, {4, 4}}, 8, true);
  return failure_of(world, [&](Worker& worker) { body(exchange, worker); });
}

TEST(CommGradients, MisuseIsNamed) {
  World world = threads(1);
  try {
    GradientExchange exchange(world, {{4, 4}}, 7, true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(contains(error.what(), "gradient bucket at 4 of 4 elements in a gradient of 7"));
  }
  EXPECT_TRUE(contains(misuse([](GradientExchange& e, Worker& w) {
                         e.begin(w, 3);
                         e.ready(w, 0);
                         e.ready(w, 0);
                       }),
                       "it was ready before"));
  EXPECT_TRUE(contains(misuse([](GradientExchange& e, Worker& w) { e.ready(w, 0); }), "begin() was not called"));
  EXPECT_TRUE(contains(misuse([](GradientExchange& e, Worker& w) {
                         e.begin(w, 3);
                         e.ready(w, 0);
                         e.wait(w);
                       }),
                       "bucket 1 was never ready"));
  EXPECT_TRUE(contains(misuse([](GradientExchange& e, Worker& w) {
                         e.begin(w, 3 + w.index());
                         e.ready(w, 0);
                         e.ready(w, 1);
                         e.wait(w);
                       }),
                       "gradients[bucket 0] of step 4"));
}

TEST(CommGradients, AMissingWorkerIsNamed) {
  const std::string left = misuse([](GradientExchange& e, Worker& w) {
    e.begin(w, 3);
    e.ready(w, 0);
    if (w.index() == 1) return;
    e.ready(w, 1);
    e.wait(w);
  });
  EXPECT_TRUE(contains(left, "waits for the gradients of step 3, but worker 1 (rank 0")) << left;
  EXPECT_TRUE(contains(left, "has finished its work and left after 1 of 2 buckets")) << left;
  const std::string stuck = misuse([](GradientExchange& e, Worker& w) {
    e.begin(w, 3);
    if (w.index() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1200));
    e.ready(w, 0);
    e.ready(w, 1);
    e.wait(w);
  });
  EXPECT_TRUE(contains(stuck, "has been silent for 0.5 s after 0 of 2 buckets")) << stuck;
}

}  // namespace
}  // namespace syncbn
