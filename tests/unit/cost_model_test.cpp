#include "train/explain/cost_model.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace syncbn {
namespace {

Config config_of(const std::string& extra = "") {
  return parse_config("workers: 64\nbatch_per_worker: 2\ndata: {kind: cifar10}\nmodel: {name: resnet20}\n" + extra,
                      "test", {});
}

StepCost predict(const Config& config, const MachineFigures& figures, int ranks) {
  return predict_step(config, explain(config, ranks), figures, ranks);
}

// Figures that are easy to reckon with.
constexpr MachineFigures kFigures = {
    .sample = 1e-3, .update = 2e-3, .latency = 1e-5, .per_message = 1e-6, .bandwidth = 1e9, .skew = 1e-5, .threads = 1};

TEST(CostModel, OneRankOnlyComputes) {
  const StepCost c = predict(config_of(), kFigures, 1);
  EXPECT_DOUBLE_EQ(c.compute, 64 * 2 * 1e-3);
  EXPECT_EQ(c.statistics + c.gradients + c.skew, 0);
  EXPECT_DOUBLE_EQ(c.update, 2e-3);
  EXPECT_EQ(c.largest(), "compute");
  EXPECT_DOUBLE_EQ(c.total(), 0.130);
}

TEST(CostModel, WorkersOfARankTakeTurnsOnItsCores) {
  MachineFigures figures = kFigures;
  figures.threads = 4;
  EXPECT_DOUBLE_EQ(predict(config_of(), figures, 1).compute, 16 * 2e-3);
  EXPECT_DOUBLE_EQ(predict(config_of(), figures, 3).compute, 6 * 2e-3);  // 22 workers on the fullest rank
  EXPECT_DOUBLE_EQ(predict(config_of(), figures, 64).compute, 2e-3);
  EXPECT_DOUBLE_EQ(predict(config_of("train: {accumulate: 3}\n"), figures, 64).compute, 6e-3);
}

TEST(CostModel, RanksOfAMachineShareTheUpdate) {
  MachineFigures figures = kFigures;
  figures.ranks_per_machine = 4;
  EXPECT_DOUBLE_EQ(predict(config_of(), figures, 2).update, 1e-3);
  EXPECT_DOUBLE_EQ(predict(config_of(), figures, 16).update, 5e-4);
}

TEST(CostModel, AMessagePerOtherRankAndTwoStagesForLargeOnes) {
  const Config config = config_of();
  const Explanation e = explain(config, 4);
  const StepCost c = predict_step(config, e, kFigures, 4);
  const auto count = static_cast<double>(e.statistics_forward.messages + e.statistics_backward.messages);
  const auto bytes = static_cast<double>(e.statistics_forward.bytes + e.statistics_backward.bytes);
  EXPECT_NEAR(c.statistics, count * (1e-5 + 2e-6) + 3 * bytes / 1e9, 1e-12);
  // All hidden behind the backward pass but for the last bucket.
  const auto buckets = static_cast<double>(e.gradients.messages);
  const double each = 2 * (1e-5 + 2e-6 + 0.75 * static_cast<double>(e.gradients.bytes) / buckets / 1e9);
  EXPECT_NEAR(c.gradients, each, 1e-12);
  EXPECT_NEAR(c.skew, (count + 1) * 1e-5 * std::sqrt(2 * std::log(4)), 1e-12);
  EXPECT_NEAR(predict(config_of("overlap: false\n"), kFigures, 4).gradients, buckets * each, 1e-12);
}

TEST(CostModel, StatisticsTravelWithinAGroupOnly) {
  const Config grouped = config_of("norm: {group: 8}\n"), local = config_of("norm: {group: 1}\n");
  EXPECT_EQ(predict(grouped, kFigures, 8).statistics, 0);  // a group to a rank
  const Explanation e = explain(grouped, 16);
  const auto bytes = static_cast<double>(e.statistics_forward.bytes + e.statistics_backward.bytes);
  const auto count = static_cast<double>(e.statistics_forward.messages + e.statistics_backward.messages);
  EXPECT_NEAR(predict(grouped, kFigures, 16).statistics, count * 1e-5 + bytes / 1e9, 1e-12);  // between two ranks
  EXPECT_LT(predict(grouped, kFigures, 64).statistics, predict(config_of(), kFigures, 64).statistics);
  EXPECT_EQ(predict(local, kFigures, 64).statistics, 0);
}

TEST(CostModel, MessagesDominateOnManyRanks) {
  Config config = config_of();
  config.workers = 4096;
  const std::vector<StepCost> costs = predict_steps(config, kFigures);
  ASSERT_EQ(costs.size(), 13u);
  EXPECT_EQ(costs.front().largest(), "compute");
  EXPECT_EQ(costs.back().ranks, 4096);
  EXPECT_EQ(costs.back().largest(), "statistics");
}

TEST(CostModel, MeasuresThisMachine) {
  const Config config =
      parse_config("workers: 2\nbatch_per_worker: 2\ndata: {kind: mnist}\nmodel: {name: lenet}", "test", {});
  WorldOptions options;
  options.workers = 2;
  options.threads = 2;
  World world = World::threads(options);
  const MachineFigures f = measure_machine(world, config, kFigures);
  EXPECT_GT(f.sample, 1e-6);
  EXPECT_LT(f.sample, 1);
  EXPECT_NE(f.update, kFigures.update);
  EXPECT_EQ(f.threads, 2);
  EXPECT_EQ(f.latency, kFigures.latency) << "there is no other rank";
}

}  // namespace
}  // namespace syncbn
