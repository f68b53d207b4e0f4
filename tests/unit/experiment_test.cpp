#include "train/experiment.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

Experiment experiment(std::vector<std::string> overrides) {
  const Config config = load_config("quickstart", overrides);
  WorldOptions options;
  options.workers = config.workers;
  const World world = World::threads(options);
  const auto backend = ops::make_cpu_backend();
  return make_experiment(world, config, *backend);
}

/// 35 images in batches of 12, 12 and 11, of which two make an update.
Experiment uneven(std::vector<std::string> overrides) {
  overrides.insert(overrides.end(), {"workers=6", "batch_per_worker=2", "data.train_limit=35", "data.test_limit=5",
                                     "train.epochs=2", "train.accumulate=2"});
  return experiment(overrides);
}

TEST(Experiment, UpdatesGoOnOverTheEndOfAnEpoch) {
  const Experiment e = uneven({});
  EXPECT_EQ(e.batches_per_epoch, 3);
  EXPECT_EQ(e.total_steps, 3);
  EXPECT_EQ(e.samples_in_step(0), 24);
  EXPECT_EQ(e.samples_in_step(1), 11 + 12);
  EXPECT_EQ(e.samples_in_step(2), 12 + 11);
  EXPECT_EQ(e.samples_in_step(3), 24);
  EXPECT_FALSE(e.due("epoch", 1));
  EXPECT_TRUE(e.due("epoch", 2));
  EXPECT_TRUE(e.due("epoch", 3));
  EXPECT_FALSE(e.due("0", 3));
}

TEST(Experiment, PreciseStatisticsTakeWholeBatchesOfOneEpochAtMost) {
  const std::string precise = "train.eval_statistics=[precise]";
  EXPECT_EQ(uneven({precise, "train.precise_samples=12"}).precise_batches(), 1);
  EXPECT_EQ(uneven({precise, "train.precise_samples=13"}).precise_batches(), 2);
  EXPECT_EQ(uneven({precise, "train.precise_samples=1000"}).precise_batches(), 3);
}

TEST(Experiment, CountsTheBatchOfAWholeUpdate) {
  const Experiment e = uneven({"optimizer.lr=0.1", "optimizer.lr_scaling=linear", "optimizer.lr_reference_batch=12",
                               "schedule.warmup_epochs=2"});
  EXPECT_DOUBLE_EQ(e.schedule.lr, 0.2);
  EXPECT_DOUBLE_EQ(e.schedule.warmup_steps, 3);
}

TEST(Experiment, AGroupOfAllWorkersIsTheWholeWorld) {
  EXPECT_TRUE(uneven({"norm.group=all"}).norm.whole_world);
  EXPECT_TRUE(uneven({"norm.group=6"}).norm.whole_world);
  EXPECT_FALSE(uneven({"norm.group=3"}).norm.whole_world);
}

TEST(Experiment, IsWhatTheConfigurationSays) {
  const Experiment e = uneven({"seed=9", "norm.eps=0.001", "norm.momentum=0.25", "norm.momentum_reference_batch=5",
                               "norm.affine=false", "data.crop_padding=3", "data.horizontal_flip=true",
                               "data.shuffle=false", "data.prefetch=1", "data.drop_last=true", "data.normalize=false"});
  EXPECT_EQ(e.norm.options.eps, 0.001);
  EXPECT_EQ(e.norm.options.momentum, 0.25);
  EXPECT_EQ(e.norm.momentum_reference_batch, 5);
  EXPECT_FALSE(e.norm.options.affine);
  EXPECT_EQ(e.augmentation.crop_padding, 3);
  EXPECT_TRUE(e.augmentation.horizontal_flip);
  EXPECT_TRUE(e.augmentation.mean.empty());
  EXPECT_EQ(e.batches_per_epoch, 2);
  WorldOptions world;
  world.workers = 6;
  const LoaderOptions loader = loader_options(World::threads(world), e);
  EXPECT_EQ(loader.seed, 9u);
  EXPECT_FALSE(loader.shuffle);
  EXPECT_TRUE(loader.drop_last);
  EXPECT_GE(loader.prefetch, 2);  // a worker may take all batches of an update before another takes its first
  const Experiment black_and_white = uneven({"data.binarize=true"});
  EXPECT_EQ(black_and_white.pixel_values[127], 0);
  EXPECT_EQ(black_and_white.pixel_values[128], 1);
}

TEST(Experiment, ImagesHaveMeanZeroAndDeviationOne) {
  int found = 0;
  for (const std::string kind : {"mnist", "fashion-mnist", "cifar10", "cifar100"}) {
    Experiment e;
    try {
      e = experiment({"data.kind=" + kind, "data.train_limit=0", "workers=1"});
    } catch (const Error&) {
      continue;  // not on this machine
    }
    ++found;
    const std::int64_t channels = e.train_set->channels(), plane = e.train_set->height() * e.train_set->width();
    for (std::int64_t c = 0; c < channels; ++c) {
      std::array<std::int64_t, 256> counts{};
      for (std::int64_t i = 0; i < e.train_set->size(); ++i) {
        const Image image = e.train_set->image(i);
        for (const std::uint8_t byte : image.pixels().subspan(static_cast<std::size_t>(c * plane), plane))
          ++counts[byte];
      }
      const double total = static_cast<double>(e.train_set->size() * plane);
      double mean = 0, square = 0;
      for (std::size_t byte = 0; byte < counts.size(); ++byte) {
        const double value = e.pixel_values[static_cast<std::size_t>(c) * 256 + byte];
        mean += static_cast<double>(counts[byte]) / total * value;
        square += static_cast<double>(counts[byte]) / total * value * value;
      }
      EXPECT_NEAR(mean, 0, 0.002) << kind << ", channel " << c;
      EXPECT_NEAR(square - mean * mean, 1, 0.005) << kind << ", channel " << c;
    }
  }
  if (found == 0) GTEST_SKIP() << "none of the data sets is on this machine";
}

}  // namespace
}  // namespace syncbn
