// Rules of a training against their definitions.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "support/temp_dir.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/storage/checkpoint.hpp"
#include "train/storage/durable_file.hpp"
#include "train/storage/safetensors.hpp"

namespace syncbn {
namespace {

class TrainingRules : public testing::Test {
 protected:
  /// 23 images in batches of 12 and 11.
  TrainResult run(const std::string& name, std::vector<std::string> overrides, bool resume = false) {
    overrides.insert(overrides.end(), {"workers=6", "batch_per_worker=2", "data.train_limit=23", "data.test_limit=30",
                                       "optimizer.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0",
                                       "schedule.name=constant", "schedule.warmup_epochs=0"});
    TrainRequest request;
    request.config = load_config("quickstart", overrides);
    request.run_dir = dir_ / name;
    request.resume = resume;
    request.watch = watch_;
    WorldOptions options;
    options.workers = request.config.workers;
    World world = World::threads(options);
    return train(world, request);
  }

  SafetensorsFile weights(const std::string& name) const {
    const std::string bytes = slurp(dir_ / name + "/final.safetensors");
    return SafetensorsFile::parse(std::as_bytes(std::span(bytes)), name);
  }

  TempDir dir_;
  std::function<void(const ProgressState&)> watch_;
};

TEST_F(TrainingRules, ClippingShortensTheGradientToItsLimit) {
  for (const double limit : {0.05, 1e6}) {
    const std::string name = "clip" + std::to_string(limit);
    run(name, {"train.steps=3", "optimizer.lr=0.5", "optimizer.clip_norm=" + std::to_string(limit),
               "probes.names=[norms]", "probes.every=1"});
    std::ifstream rows(dir_ / name + "/probes.jsonl");
    int updates = 0;
    for (std::string line; std::getline(rows, line);) {
      const auto row = nlohmann::json::parse(line);
      if (row.at("name") != "") continue;  // of one parameter
      ++updates;
      const double gradient = row.at("gradient"), update = row.at("update");
      EXPECT_GT(gradient, 0.05);
      EXPECT_NEAR(update, 0.5 * std::min(gradient, limit), 1e-3 * update) << limit << ", update " << updates;
    }
    EXPECT_EQ(updates, 3);
  }
}

TEST_F(TrainingRules, AGradientThatIsNotFiniteIsNotClipped) {
  // Outputs of 0 behind two layers of huge weights: a finite loss whose gradient overflows.
  std::vector<std::string> keys = {
      "norm.type=none", "train.steps=2", "optimizer.lr=1e-30", "optimizer.clip_norm=1",
      "model.layers=[{type: flatten}, {type: linear, out: 8}, {type: linear, out: 8}, {type: linear, out: 10}]"};
  run("finite", keys);
  SafetensorsFile huge;
  const SafetensorsFile finite = weights("finite");
  for (const auto& [name, tensor] : finite.tensors) {
    std::vector<float> values(finite.f32(name, tensor.shape).size(), 0);
    if (tensor.shape == std::vector<std::int64_t>{8, 8}) std::fill(values.begin(), values.end(), 1e30f);
    if (tensor.shape == std::vector<std::int64_t>{10, 8}) std::fill_n(values.begin(), 8, 1e30f);  // of one class
    huge.put_f32(name, tensor.shape, values);
  }
  write_file_durably(dir_ / "huge.safetensors", huge.serialize());
  keys.push_back("model.weights=" + (dir_ / "huge.safetensors"));
  try {
    run("huge", keys);
    FAIL() << "no error";
  } catch (const Diverged& e) {
    EXPECT_EQ(std::string(e.what()).find("the gradient of step 1 is not finite; it has changed no weight"), 0u)
        << e.what();
  }
}

/// Weights that stay as they are, and are as good after each epoch.
const std::vector<std::string> kStill = {"optimizer.lr=1e-30", "norm.type=none", "checkpoint.keep=9",
                                         "checkpoint.every=epoch"};

TEST_F(TrainingRules, OfEqualsTheFirstIsTheBestAlsoAfterAResume) {
  std::vector<std::string> keys = kStill;
  keys.emplace_back("train.epochs=3");
  run("equal", keys);
  EXPECT_TRUE(CheckpointStore::resolve(dir_ / "equal/best").ends_with("step-000000002"));
  EXPECT_TRUE(CheckpointStore::resolve(dir_ / "equal/last").ends_with("step-000000006"));
  std::filesystem::remove_all(dir_ / "equal/checkpoints/step-000000006");
  run("equal", keys, true);
  EXPECT_TRUE(CheckpointStore::resolve(dir_ / "equal/best").ends_with("step-000000002"));
  EXPECT_TRUE(CheckpointStore::resolve(dir_ / "equal/last").ends_with("step-000000006"));
  // One that has ended has nothing to add.
  const std::string metrics = slurp(dir_ / "equal/metrics.jsonl");
  run("equal", keys, true);
  EXPECT_EQ(slurp(dir_ / "equal/metrics.jsonl"), metrics);
}

TEST_F(TrainingRules, ACheckpointThatFailsEndsTheTrainingInMidRun) {
  std::int64_t done = 0;
  watch_ = [&](const ProgressState& state) {
    done = state.done;
    if (done > 2) std::this_thread::sleep_for(std::chrono::milliseconds(50));  // for the disk to fail
    if (done != 2) return;
    std::error_code ignored;
    std::filesystem::remove_all(dir_ / "run/checkpoints", ignored);
    spit(dir_ / "run/checkpoints", "no folder");
  };
  try {
    run("run", {"train.steps=12", "checkpoint.every=2", "checkpoint.keep_best=false"});
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("run/checkpoints: Not a directory"), std::string::npos) << e.what();
  }
  EXPECT_LT(done, 12);
}

// As an older version leaves it whose training was meant to be longer.
TEST_F(TrainingRules, ACheckpointOfTheEndWithoutItsEvaluationIsEvaluated) {
  const std::vector<std::string> keys = {"train.steps=2"};
  const TrainResult whole = run("run", keys);
  CheckpointStore store(dir_ / "run", 1, false);
  TrainingState saved = *store.load_newest(nullptr);
  saved.scalars.at("last_evaluation") = "1";
  saved.scalars.erase("evaluation.running");
  store.save(saved, false);
  const TrainResult again = run("run", keys, true);
  ASSERT_EQ(again.evaluations.size(), 1u);
  EXPECT_EQ(again.loss, whole.loss);
}

TEST_F(TrainingRules, ACheckpointWhoseScalarsCannotBeIsRefusedByName) {
  const std::vector<std::string> keys = {"train.steps=2", "checkpoint.keep_best=false", "checkpoint.keep=1"};
  run("run", keys);
  CheckpointStore store(dir_ / "run", 1, false);
  const TrainingState good = *store.load_newest(nullptr);
  const auto refused = [&](const std::string& name, const std::optional<std::string>& value) {
    TrainingState bad = good;
    bad.scalars.erase(name);
    if (value) bad.scalars[name] = *value;
    store.save(bad, false);
    const std::string why = value ? "the scalar '" + name + "' cannot be '" + *value + "'" : "no scalar '" + name + "'";
    try {
      run("run", keys, true);
      FAIL() << why;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::bad_data) << why;
      const std::string text = e.what();
      EXPECT_NE(text.find("run/checkpoints/step-000000002/manifest.json: "), std::string::npos) << text;
      EXPECT_NE(text.find(why + "; repair it, remove "), std::string::npos) << text;
    }
  };
  for (const char* name : {"data", "updates", "best_accuracy", "last_evaluation", "interval_loss_sum",
                           "interval_correct", "interval_samples"})
    refused(name, std::nullopt);
  for (const char* value : {"-1", "", "two", "2x", "99999999999999999999"}) refused("updates", value);
  for (const char* value : {"nan", "inf", "0x1p+1", "half"}) refused("best_accuracy", value);
  for (const char* value : {"0x1p-1", "0x1p-1 x 1 1", ""}) refused("evaluation.running", value);
  refused("last_evaluation", "-2");
  refused("interval_correct", "1");  // of no samples
  refused("interval_loss_sum", "nan");
  refused("seconds", "0x1p+60");
  refused("images", "-0x1p+0");
  refused("probe.gradient_noise_scale", "much");
  store.save(good, false);
  EXPECT_EQ(run("run", keys, true).steps, 2);
}

TEST_F(TrainingRules, AResumeBeforeTheFirstCheckpointStartsFromTheGivenWeights) {
  std::vector<std::string> keys = kStill;
  keys.emplace_back("train.steps=1");
  run("first", keys);
  keys.insert(keys.end(), {"seed=7", "model.weights=" + (dir_ / "first/final.safetensors")});
  run("second", keys, true);
  const SafetensorsFile first = weights("first"), second = weights("second");
  for (const auto& [name, tensor] : first.tensors) {
    const std::vector<float> before = first.f32(name, tensor.shape), after = second.f32(name, tensor.shape);
    for (std::size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(after[i], before[i], 1e-20) << name;
  }
}

TEST_F(TrainingRules, UpdatesTakeTheLearningRateThatIsLogged) {
  run("rates", {"train.steps=5", "train.log_every=1", "optimizer.lr=0.5", "schedule.warmup_steps=4",
                "probes.names=[norms]", "probes.every=1"});
  std::map<int, double> rates;
  std::ifstream metrics(dir_ / "rates/metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.at("kind") == "train") rates[json.at("step")] = json.at("lr");
  }
  EXPECT_EQ(rates.size(), 5u);
  EXPECT_EQ(rates[1], 0);
  EXPECT_EQ(rates[5], 0.5);
  std::ifstream rows(dir_ / "rates/probes.jsonl");
  for (std::string line; std::getline(rows, line);) {
    const auto row = nlohmann::json::parse(line);
    if (row.at("name") != "") continue;
    const double expected = rates.at(row.at("step")) * row.at("gradient").get<double>();
    EXPECT_NEAR(row.at("update"), expected, 1e-3 * expected) << line;
  }
}

TEST_F(TrainingRules, LabelSmoothingReachesTheLoss) {
  const auto loss = [&](const std::string& name, const std::string& smoothing) {
    run(name, {"train.steps=1", "train.log_every=1", smoothing});
    std::ifstream metrics(dir_ / name + "/metrics.jsonl");
    std::string line;
    std::getline(metrics, line);
    return nlohmann::json::parse(line).at("loss").get<double>();
  };
  EXPECT_NE(loss("sharp", "label_smoothing=0"), loss("smooth", "label_smoothing=0.2"));
}

// norm.momentum is meant for a batch of norm.momentum_reference_batch; the batch of 11 counts for 11. A cumulative
// average is one over all batches, those of one update, too.
TEST_F(TrainingRules, DecayOfRunningStatisticsFollowsEachBatch) {
  const std::vector<std::string> still = {"optimizer.lr=1e-30", "data.shuffle=false"};
  const auto running_means = [&](const std::string& name, std::vector<std::string> overrides) {
    overrides.insert(overrides.end(), still.begin(), still.end());
    run(name, overrides);
    std::vector<float> values;
    const SafetensorsFile file = weights(name);
    for (const auto& [tensor, stored] : file.tensors) {
      if (!tensor.ends_with("running_mean")) continue;
      const std::vector<float> some = file.f32(tensor, stored.shape);
      values.insert(values.end(), some.begin(), some.end());
    }
    return values;
  };
  const auto first = running_means("first", {"norm.momentum=1", "train.steps=1"});
  const auto second = running_means("second", {"norm.momentum=1", "train.steps=2"});
  const auto mean = running_means("mean", {"norm.momentum=cumulative", "train.accumulate=2", "train.steps=1"});
  const auto both = running_means("both", {"norm.momentum=0.3", "norm.momentum_reference_batch=3", "train.steps=2"});
  ASSERT_EQ(both.size(), second.size());
  ASSERT_FALSE(both.empty());
  const double a = std::pow(0.7, 12.0 / 3), b = std::pow(0.7, 11.0 / 3);
  for (std::size_t c = 0; c < both.size(); ++c) {
    EXPECT_NEAR(mean[c], (first[c] + second[c]) / 2, 1e-5) << c;
    EXPECT_NEAR(both[c], b * (1 - a) * first[c] + (1 - b) * second[c], 1e-5) << c;
  }
}

TEST_F(TrainingRules, RefusesARunWithoutAFolder) {
  World world = World::threads({.workers = 1});
  TrainRequest request;
  request.config = load_config("quickstart", {"workers=1"});
  try {
    train(world, request);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_STREQ(e.what(), "TrainRequest::run_dir is empty: name the folder of the run");
  }
}

}  // namespace
}  // namespace syncbn
