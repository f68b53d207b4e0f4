// Probes in whole trainings, on any number of ranks and across a resume.

#include <gtest/gtest.h>

#include <filesystem>

#include "support/temp_dir.hpp"
#include "support/worlds.hpp"
#include "syncbn/train/trainer.hpp"

namespace syncbn::test {
namespace {

namespace fs = std::filesystem;

constexpr int kWorkers = 6;

/// 83 images in batches of 12: the last of an epoch leaves a worker one short.
TrainRequest request_of(const std::string& folder) {
  const std::vector<std::string> keys{"workers=6",          "batch_per_worker=2",       "data.train_limit=83",
                                      "data.test_limit=8",  "train.epochs=2",           "data.crop_padding=4",
                                      "probes.names=[all]", "probes.every=3",           "norm.group=2",
                                      "train.accumulate=2", "checkpoint.every=4",       "train.log_every=1",
                                      "model.name=lenet",   "model.activation=sigmoid", "seed=2"};
  TrainRequest request;
  request.config = parse_config("", "test", keys);
  request.run_dir = folder;
  return request;
}

struct Files {
  std::string weights, probes;
};

Files files_in(const std::string& folder) {
  const auto text = [&](const char* name) { return fs::exists(folder + name) ? slurp(folder + name) : ""; };
  return {text("/final.safetensors"), text("/probes.jsonl")};
}

/// In this process alone.
Files train_alone(const std::string& folder) {
  WorldOptions options;
  options.workers = kWorkers;
  options.threads = 1;
  World world = World::threads(options);
  train(world, request_of(folder));
  return files_in(folder);
}

TEST(ProbedTraining, IsTheSameOnAnyRanksAndAfterAResume) {
  if (kWorkers < job_ranks()) return;
  const TempDir dir;
  const std::string spread = dir / "spread";
  const Files expected = train_alone(dir / "alone");
  EXPECT_GT(expected.probes.size(), 1000u);
  EXPECT_EQ(expected.probes.find("\"scale\":null"), std::string::npos);  // else there is no average to resume
  WorldOptions options;
  options.workers = kWorkers;
  options.threads = 3;
  {
    World world = make_world(options);
    train(world, request_of(spread));
    if (world.rank() == 0) {
      EXPECT_EQ(files_in(spread).probes, expected.probes);
      EXPECT_EQ(files_in(spread).weights, expected.weights);
      // As after a crash behind step 4, between two looks.
      fs::remove(spread + "/final.safetensors");
      for (const auto& entry : fs::directory_iterator(spread + "/checkpoints")) {
        if (entry.path().filename() != "step-000000004") fs::remove_all(entry.path());
      }
    }
    world.broadcast("");  // the others wait for that
  }
  World world = make_world(options);
  TrainRequest again = request_of(spread);
  again.resume = true;
  train(world, again);
  if (world.rank() != 0) return;
  EXPECT_EQ(files_in(spread).probes, expected.probes);
  EXPECT_EQ(files_in(spread).weights, expected.weights);
}

}  // namespace
}  // namespace syncbn::test
