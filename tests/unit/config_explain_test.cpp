#include <gtest/gtest.h>

#include "data/dataset.hpp"
#include "syncbn/core/error.hpp"
#include "train/explain/explain.hpp"

namespace syncbn {
namespace {

Explanation explain_text(const std::string& yaml, int ranks = 1) {
  return explain(parse_config(yaml, "test", {}), ranks);
}

TEST(Explain, CountsParametersOfKnownModels) {
  // He et al. 2016, table 6: 0.27 M; with projection shortcuts 272,474.
  EXPECT_EQ(explain_text("workers: 1\ndata: {kind: cifar10}\nmodel: {name: resnet20}").parameters, 272474);
  // 784 x 10 + 10
  EXPECT_EQ(explain_text("workers: 1\ndata: {kind: mnist}\nmodel: {name: layers, layers: [{type: flatten}, {type: "
                         "linear, out: 10}]}")
                .parameters,
            7850);
}

TEST(Explain, CountsMessagesAndBytesOfStatistics) {
  const std::string net = R"(
workers: 4
batch_per_worker: 8
data: {kind: mnist}
bucket_kib: 1
model:
  name: layers
  layers:
    - {type: conv2d, out: 6, kernel: 5, bias: false}
    - {type: batch_norm}
    - {type: relu}
    - {type: flatten}
    - {type: linear, out: 10}
)";
  const Explanation all = explain_text(net);
  EXPECT_EQ(all.statistics_forward.messages, 1);
  EXPECT_EQ(all.statistics_forward.bytes, 8 * (1 + 2 * 6));
  EXPECT_EQ(all.statistics_backward.bytes, 8 * 2 * 6);
  EXPECT_EQ(all.bn_span, 32);
  EXPECT_EQ(all.global_batch, 32);
  // gamma and beta do not travel again
  EXPECT_EQ(all.gradients.bytes, 4 * (6 * 25 + 6 * 24 * 24 * 10 + 10));
  EXPECT_EQ(all.gradients.messages, 2);
  EXPECT_EQ(all.batches_per_epoch, 60000 / 32);

  const Explanation pairs = explain_text(net + "norm: {group: 2}\ntrain: {accumulate: 3}\n");
  EXPECT_EQ(pairs.bn_span, 16);
  EXPECT_EQ(pairs.global_batch, 96);
  EXPECT_EQ(pairs.statistics_forward.messages, 3);
  EXPECT_EQ(pairs.gradients.bytes, all.gradients.bytes + 4 * 12);

  // Statistics of single samples send nothing; their gamma and beta travel with the gradients.
  const Explanation groups = explain_text(net + "norm: {type: group}\n");
  EXPECT_EQ(groups.statistics_forward.messages, 0);
  EXPECT_EQ(groups.statistics_backward.messages, 0);
  EXPECT_EQ(groups.gradients.bytes, all.gradients.bytes + 4 * 12);

  // 6 channels, whitened in 2 groups of 3: sums and 2 x 6 products; in backward sums and 2 x 9 products.
  const Explanation whitened = explain_text(net + "norm: {type: whitening, group_channels: 5}\n");
  EXPECT_EQ(whitened.statistics_forward.bytes, 8 * (1 + 6 + 12));
  EXPECT_EQ(whitened.statistics_backward.bytes, 8 * (6 + 18));
  EXPECT_EQ(whitened.gradients.bytes, all.gradients.bytes);

  const Explanation local = explain_text(net + "norm: {group: 1}\n");
  EXPECT_EQ(local.statistics_forward.messages, 0);
  EXPECT_EQ(local.statistics_backward.bytes, 0);
}

TEST(Explain, CountsMemoryByType) {
  const std::string net = "workers: 2\ndata: {kind: mnist}\ndevice: cuda\nmodel: {name: mlp}\nprecision: ";
  const Explanation wide = explain_text(net + "float32"), tf32 = explain_text(net + "tf32");
  const Explanation narrow = explain_text(net + "bfloat16");
  EXPECT_EQ(tf32.activation_bytes, wide.activation_bytes);
  EXPECT_EQ(narrow.activation_bytes, wide.activation_bytes / 2);
  EXPECT_EQ(narrow.weight_bytes, wide.weight_bytes + 2 * wide.parameters);
  EXPECT_EQ(narrow.gradients.bytes, wide.gradients.bytes);
}

TEST(Explain, CountsWhatTheOptimizerKeeps) {
  const auto buffers = [](const std::string& optimizer) {
    const Explanation e =
        explain_text("{workers: 1, data: {kind: mnist}, model: {name: mlp}, optimizer: {" + optimizer + "}}");
    return e.weight_bytes / (4 * e.parameters) - 2;  // besides weights and gradient
  };
  EXPECT_EQ(buffers("name: sgd, momentum: 0.9"), 1);
  EXPECT_EQ(buffers("name: sgd, momentum: 0"), 0);
  EXPECT_EQ(buffers("name: adagrad"), 1);
  EXPECT_EQ(buffers("name: adam"), 2);
  EXPECT_EQ(buffers("name: adamw"), 2);
  EXPECT_EQ(buffers("name: lars"), 1);
  EXPECT_EQ(buffers("name: lamb"), 3);
}

TEST(Explain, CountsUpdates) {
  const auto updates = [](const std::string& train) {
    return explain_text("{workers: 4, batch_per_worker: 32, data: {train_limit: 6400}, train: {" + train + "}}").steps;
  };
  EXPECT_EQ(updates("epochs: 30, accumulate: 3"), 500);  // 50 batches an epoch
  EXPECT_EQ(updates("epochs: 2.2"), 110);
  EXPECT_EQ(updates("epochs: 2.201"), 111);
  EXPECT_EQ(updates("steps: 7, accumulate: 3"), 7);
  EXPECT_EQ(updates("epochs: 1e9"), 50'000'000'000);
  EXPECT_THROW(updates("epochs: 1e15"), Error);
  EXPECT_THROW(updates("epochs: 5e16"), Error);
  EXPECT_THROW(updates("steps: 1000000000000000, accumulate: 2"), Error);
}

TEST(Explain, NamesPointsOfTheScheduleBehindTheEnd) {
  using Lines = std::vector<std::string>;
  const auto unreached = [](const std::string& schedule, const std::string& train) {  // 50 batches an epoch
    return explain_text("{workers: 4, batch_per_worker: 32, data: {train_limit: 6400}, schedule: {" + schedule +
                        "}, train: {" + train + "}}")
        .unreached;
  };
  EXPECT_EQ(unreached("name: step, milestones: [99, 100, 150]", "epochs: 2"),
            (Lines{"schedule.milestones: 100, 150 are never reached: the training ends after 100 steps, 2 epochs"}));
  EXPECT_EQ(unreached("name: step, milestones: [0.5, 0.999]", "steps: 3"), Lines{});
  EXPECT_EQ(unreached("name: step, milestones: [99]", "epochs: 2"), Lines{});
  EXPECT_EQ(
      unreached("warmup_epochs: 5", "epochs: 4.5, accumulate: 2"),
      (Lines{"schedule.warmup_epochs: 5: the learning rate never gets to optimizer.lr: the training ends after 113 "
             "steps, 4.52 epochs"}));
  EXPECT_EQ(unreached("warmup_epochs: 5", "epochs: 5.1, accumulate: 2"), Lines{});
  EXPECT_EQ(unreached("warmup_steps: 2", "steps: 1"),
            (Lines{"schedule.warmup_steps: 2: the learning rate never gets to optimizer.lr: the training ends after 1 "
                   "step, 0.02 epochs"}));
}

TEST(Explain, RefusesMoreRanksThanWorkers) {
  EXPECT_THROW(explain_text("workers: 2", 3), Error);
  EXPECT_THROW(explain_text("workers: 2", 0), Error);
  EXPECT_NO_THROW(explain_text("workers: 2", 2));
}

TEST(Explain, NamesTheLineOfALayerThatDoesNotFit) {
  try {
    explain_text("workers: 1\nmodel:\n  name: layers\n  layers:\n    - {type: relu}\n    - {type: linear, out: 9}\n");
    ADD_FAILURE() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).find("test:6: model.layers[1]: layer 'linear1' (linear): needs an input"), 0u)
        << e.what();
  }
}

TEST(Explain, EveryShippedConfigurationCanBeExplained) {
  for (const ShippedConfig& shipped : shipped_configs()) {
    Config config = parse_config(shipped.text, shipped.name, {});
    if (config.workers == 0) config.workers = 4;
    EXPECT_GT(explain(config, 1).parameters, 0) << shipped.name;
    EXPECT_TRUE(explain(config, 1).unreached.empty()) << shipped.name;
  }
}

TEST(Explain, ShapesAgreeWithTheData) {
  const DataShape shape = data_shape(Config{}.data);
  const Dataset builtin = open_dataset("builtin", "", Split::test, 1);
  EXPECT_EQ(shape.image, (Shape{1, builtin.channels(), builtin.height(), builtin.width()}));
  EXPECT_EQ(shape.classes, builtin.classes());
  EXPECT_EQ(shape.test_images, builtin.size());
}

}  // namespace
}  // namespace syncbn
