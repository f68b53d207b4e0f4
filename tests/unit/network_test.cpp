#include "nn/network.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "nn/loss.hpp"
#include "support/small_network.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

using test::NetworkResult;
using test::run_small_network;

// Groups: running statistics are the average over groups, as if each group had kept its own and all were averaged.
TEST(Network, GroupStatisticsAreAveraged) {
  const NetworkResult grouped = run_small_network({4, 4, 4, 4}, 2);
  const NetworkResult whole = run_small_network({4, 4, 4, 4}, 4);
  // The mean of the groups' means is the mean of the whole when groups are even; only bn1's inputs are the same in
  // both.
  for (std::size_t c = 0; c < 6; ++c) EXPECT_NEAR(grouped.statistics[c], whole.statistics[c], 1e-6);
  EXPECT_NE(grouped.gradient, whole.gradient);
}

// With a reference batch, two batches of half its size leave what one whole one leaves: (1 - m)^(1/2) twice.
TEST(Network, DecayPerSampleDoesNotDependOnTheBatch) {
  test::NetworkRun run{.counts = {5, 7}, .group = 2};
  const NetworkResult plain = run_small_network(run);
  run.momentum = 0.19;  // 1 - 0.81^(1/2) = 0.1
  run.momentum_reference_batch = 24;
  const NetworkResult half = run_small_network(run);
  ASSERT_EQ(plain.statistics.size(), half.statistics.size());
  for (std::size_t i = 0; i < plain.statistics.size(); ++i) EXPECT_NEAR(half.statistics[i], plain.statistics[i], 1e-6);
  run.momentum_reference_batch = 12;
  EXPECT_NE(run_small_network(run).statistics, plain.statistics);
}

// Of a group that has no sample in a batch, the average takes what it had before.
TEST(Network, AGroupWithoutSamplesKeepsItsStatistics) {
  const auto statistics = [](const std::vector<int>& counts, double momentum) {
    return run_small_network(test::NetworkRun{.counts = counts, .group = 2, .momentum = momentum}).statistics;
  };
  const auto before = statistics({4, 4}, 0), some = statistics({4, 4}, 0.1), half = statistics({4, 4, 0, 0}, 0.1);
  ASSERT_EQ(half.size(), some.size());
  for (std::size_t i = 0; i < half.size(); ++i) EXPECT_NEAR(half[i], (some[i] + before[i]) / 2, 1e-6) << i;
}

TEST(Network, WhatIsNotANumberIsNotCorrect) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> logits = {nan, nan, nan, 1, 2, 0};
  const std::vector<int> labels = {0, 1};
  const LossResult loss = softmax_cross_entropy({logits.data(), {2, 3}}, labels, 0, 0, {});
  EXPECT_EQ(loss.correct, 1);
  EXPECT_TRUE(std::isnan(loss.loss_sum));
}

TEST(Network, RefusesMoreValuesThanCanBeCounted) {
  ModelOptions options;
  options.name = "layers";
  options.classes = 2;
  options.input = {1, 1, 1, 1};
  for (const char* type : {"conv2d", "conv2d", "global_avg_pool", "linear"}) options.layers.emplace_back().type = type;
  options.layers[0].kernel = 1024, options.layers[0].padding = 1023, options.layers[0].out = 1;
  options.layers[1].kernel = 1, options.layers[1].out = 1 << 19;
  options.layers[3].out = 2;
  const auto backend = ops::make_cpu_backend();
  ModelState state(make_model(options), {}, *backend);
  std::vector<float> gradient(static_cast<std::size_t>(state.flat_size()));
  try {
    Network network(state, *backend, {}, 1, 1 << 24, gradient);  // 2^63 values: their bytes would be counted as none
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("use a smaller batch_per_worker"), std::string::npos) << e.what();
  }
}

// What parameters do not follow from has no gradient: no memory, no work, the same gradient of the parameters.
TEST(Network, NothingIsBackwardBeforeTheFirstParameters) {
  struct Outcome {
    std::vector<float> gradient;
    std::int64_t bytes;
  };
  const auto train = [](const std::vector<std::string>& first) {
    ModelOptions options;
    options.name = "layers";
    options.classes = 5;
    options.input = {1, 2, 8, 8};
    for (const std::string& type : first) options.layers.emplace_back().type = type;
    for (LayerConfig& layer : options.layers) layer.kernel = 1;
    options.layers.emplace_back().type = "flatten";
    LayerConfig& last = options.layers.emplace_back();
    last.type = "linear";
    last.name = "last";  // what its weights are drawn from
    last.out = 5;
    const auto backend = ops::make_cpu_backend();
    ModelState state(make_model(options), {}, *backend);
    state.initialize(3);
    state.send();
    Outcome outcome{std::vector<float>(static_cast<std::size_t>(state.flat_size())), 0};
    Network network(state, *backend, {}, 1, 3, outcome.gradient);
    network.begin_update();
    const test::SmallBatch batch = test::small_batch(0, 3);
    network.set_images(batch.images.data(), 3);
    Pass pass;
    pass.n = pass.batch_samples = 3;
    pass.sample_ids = batch.ids;
    network.forward(pass);
    network.start_loss(batch.labels, 0, 1.0 / 3);
    network.backward(pass, [](int) {});
    outcome.bytes = plan_network(state, *backend, 3).arena.bytes;
    return outcome;
  };
  const Outcome plain = train({}), pooled = train({"max_pool", "avg_pool"});
  EXPECT_EQ(pooled.gradient, plain.gradient);
  constexpr std::int64_t kOneTensor = 3 * 2 * 8 * 8 * sizeof(float);
  EXPECT_EQ(pooled.bytes, plain.bytes + 2 * kOneTensor);
  EXPECT_LT(plain.bytes, 3 * kOneTensor);
}

}  // namespace
}  // namespace syncbn
