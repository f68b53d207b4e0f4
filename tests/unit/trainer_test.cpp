#include "syncbn/train/trainer.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "support/small_network.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/train/safetensors.hpp"

namespace syncbn {
namespace {

namespace fs = std::filesystem;

/// What a training leaves, as far as it must not depend on the machine.
struct Outcome {
  std::string weights;              // final.safetensors, byte by byte
  std::vector<std::string> losses;  // every logged loss and accuracy
  TrainResult result;
  bool operator==(const Outcome& o) const { return weights == o.weights && losses == o.losses; }
};

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class Trainer : public testing::Test {
 protected:
  Trainer() {
    std::string name = fs::temp_directory_path() / "syncbn-trainer-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~Trainer() override { fs::remove_all(folder_); }

  Outcome run(std::vector<std::string> overrides, const std::string& name, bool resume = false) {
    // 83 images in global batches of 12: the last one of an epoch holds 11, so that a worker of 6 is one short.
    std::vector<std::string> all{"workers=6",           "batch_per_worker=2",       "data.train_limit=83",
                                 "data.test_limit=31",  "train.epochs=2",           "train.log_every=1",
                                 "data.crop_padding=4", "data.horizontal_flip=true"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    TrainRequest request;
    request.config = load_config("quickstart", all);
    request.run_dir = (folder_ / name).string();
    request.resume = resume;
    WorldOptions options;
    options.workers = request.config.workers;
    options.threads = request.config.threads;
    World world = World::threads(options);
    Outcome outcome;
    outcome.result = train(world, request);
    outcome.weights = read_file(folder_ / name / "final.safetensors");
    std::istringstream metrics(read_file(folder_ / name / "metrics.jsonl"));
    for (std::string line; std::getline(metrics, line);) {
      const auto json = nlohmann::json::parse(line);
      outcome.losses.push_back(json["kind"].dump() + json["step"].dump() + " " + json["loss"].dump() + " " +
                               json["accuracy"].dump());
    }
    return outcome;
  }

  fs::path folder_;
};

// With local statistics nothing keeps a worker from going through a whole update before its neighbour on the same
// thread begins, and the loader must have the batches for that.
TEST_F(Trainer, AWorkerMayBeAWholeUpdateAheadOfItsNeighbours) {
  const std::vector<std::string> keys{"norm.group=1", "train.accumulate=5", "data.prefetch=1", "train.epochs=1"};
  std::vector<std::string> alone = keys, together = keys;
  alone.emplace_back("threads=6");
  together.emplace_back("threads=1");
  EXPECT_EQ(run(alone, "alone"), run(together, "together"));
}

TEST_F(Trainer, ThreadsBucketsAndOverlapChangeNothing) {
  const Outcome reference = run({}, "reference");
  ASSERT_EQ(reference.losses.size(), 16u);  // 14 updates, 2 evaluations
  EXPECT_EQ(run({"threads=1"}, "one"), reference);
  EXPECT_EQ(run({"threads=3"}, "three"), reference);
  EXPECT_EQ(run({"overlap=false"}, "overlap"), reference);
  EXPECT_EQ(run({"bucket_kib=1"}, "buckets"), reference);
  EXPECT_FALSE(run({"seed=2"}, "seed") == reference);
}

TEST_F(Trainer, ManyEmptyWorkersTakePart) {
  // One image in the last global batch: five of six workers hold none.
  for (const std::string group : {"1", "2", "all"}) {
    const Outcome outcome = run({"data.train_limit=73", "norm.group=" + group}, "empty" + group);
    EXPECT_EQ(outcome.result.steps, 14);
    EXPECT_GT(outcome.weights.size(), 1000u);
  }
}

// Case 45: what a checkpoint holds is enough to go on as if nothing had happened, in the middle of an epoch, too.
TEST_F(Trainer, Case45ResumesToTheBit) {
  for (const std::string group : {"all", "2"}) {
    for (const std::string optimizer : {"sgd", "adam"}) {
      const std::vector<std::string> keys{"norm.group=" + group, "optimizer.name=" + optimizer, "checkpoint.every=4",
                                          "train.log_every=3"};
      const std::string name = group + optimizer;
      const Outcome undisturbed = run(keys, name);
      // As after a crash behind step 8: what came later is gone.
      const fs::path folder = folder_ / name;
      fs::remove(folder / "final.safetensors");
      for (const auto& entry : fs::directory_iterator(folder / "checkpoints")) {
        if (entry.path().filename().string() > "step-000000008") fs::remove_all(entry.path());
      }
      EXPECT_EQ(run(keys, name, true), undisturbed) << name;
    }
  }
}

// Case 38: without batch statistics, two micro-batches of half the size are one batch.
TEST_F(Trainer, Case38AccumulationEqualsTheLargeBatch) {
  const std::vector<std::string> keys{"norm.type=none",    "data.train_limit=72", "data.shuffle=false",
                                      "optimizer.lr=0.01", "data.crop_padding=0", "data.horizontal_flip=false"};
  std::vector<std::string> halves = keys;
  halves.insert(halves.end(), {"batch_per_worker=1", "train.accumulate=2"});
  const Outcome whole = run(keys, "whole"), accumulated = run(halves, "halves");
  EXPECT_EQ(whole.result.steps, accumulated.result.steps);
  EXPECT_NEAR(whole.result.test_loss, accumulated.result.test_loss, 1e-4);
}

TEST_F(Trainer, EveryNormalizationResumesToTheBit) {
  for (const std::string& norm : norm_types()) {
    if (norm == "batch") continue;  // case 45
    const std::vector<std::string> keys{"norm.type=" + norm, "checkpoint.every=4", "norm.group=2"};
    const Outcome undisturbed = run(keys, norm);
    const fs::path folder = folder_ / norm;
    fs::remove(folder / "final.safetensors");
    for (const auto& entry : fs::directory_iterator(folder / "checkpoints")) {
      if (entry.path().filename().string() > "step-000000008") fs::remove_all(entry.path());
    }
    EXPECT_EQ(run(keys, norm, true), undisturbed) << norm;
  }
}

TEST_F(Trainer, ReportsWhereTheLossBroke) {
  try {
    run({"optimizer.lr=1e30", "schedule.name=constant"}, "nan");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("not a finite number"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("step"), std::string::npos) << e.what();
  }
}

TEST_F(Trainer, ProbesChangeNoResult) {
  for (const std::string key :
       {"norm.momentum=cumulative", "norm.type=renorm", "norm.type=whitening", "norm.type=weight"}) {
    const std::vector<std::string> plain{key, "norm.group=2", "train.accumulate=2", "threads=3"};
    std::vector<std::string> probed = plain;
    probed.insert(probed.end(), {"probes.names=[all]", "probes.every=3"});
    EXPECT_EQ(run(probed, "probed" + key), run(plain, "plain" + key)) << key;
    EXPECT_FALSE(fs::exists(folder_ / ("plain" + key) / "probes.jsonl"));
  }
}

TEST_F(Trainer, ProbesLookOnTime) {
  run({"probes.names=[all]", "probes.every=3", "norm.group=2", "train.accumulate=2"}, "run");
  std::istringstream lines(read_file(folder_ / "run" / "probes.jsonl"));
  std::map<std::string, std::vector<int>> steps;
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::json::parse(line);
    std::vector<int>& of_probe = steps[row.at("probe")];
    if (of_probe.empty() || of_probe.back() != row.at("step")) of_probe.push_back(row.at("step"));
  }
  EXPECT_EQ(steps.size(), probe_names().size());
  const std::vector<int> expected{3, 6, 7};  // every third update and the last
  for (const auto& [probe, found] : steps) EXPECT_EQ(found, expected) << probe;
}

TEST_F(Trainer, RefusesToProbeUnknownLayers) {
  try {
    run({"probes.layers=[norm1, linaer18]"}, "run");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "probes.layers: no layer of the network is named 'linaer18'; did you mean 'linear18'?");
  }
}

TEST_F(Trainer, RefusesToResumeOnOtherData) {
  run({"checkpoint.every=2"}, "data");
  std::vector<std::string> other{"checkpoint.every=2", "data.train_limit=60"};
  EXPECT_THROW(run(other, "data", true), Error);
}

}  // namespace
}  // namespace syncbn
