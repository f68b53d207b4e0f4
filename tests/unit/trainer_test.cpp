#include "syncbn/train/trainer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "support/small_network.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/safetensors.hpp"
#include "unit/pictures.hpp"

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

std::vector<nlohmann::json> lines_of(const fs::path& path) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
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
    for (const auto& json : lines_of(folder_ / name / "metrics.jsonl")) {
      outcome.losses.push_back(json["kind"].dump() + json["step"].dump() + " " + json["loss"].dump() + " " +
                               json["accuracy"].dump());
    }
    return outcome;
  }

  fs::path folder_;
};

// The first batch has weight 1, the second 1/2.
TEST_F(Trainer, CumulativeRunningStatisticsAreThePlainMean) {
  const auto losses = [&](const std::string& momentum, const std::string& steps) {
    return run({"norm.momentum=" + momentum, "train.steps=" + steps}, momentum + "-" + steps).losses;
  };
  EXPECT_EQ(losses("cumulative", "1"), losses("1", "1"));
  EXPECT_NE(losses("cumulative", "2"), losses("1", "2"));
}

TEST_F(Trainer, OneValueHasNoVariance) {
  for (const std::string norm : {"batch", "whitening"}) {
    try {
      run({"norm.type=" + norm, "model.name=mlp", "model.layers=[]", "workers=1", "batch_per_worker=1"}, norm);
      ADD_FAILURE() << norm << ": expected an error";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("one value per channel in the whole group"), std::string::npos) << e.what();
    }
  }
}

// Ioffe 2017: training begins as with batch normalization.
TEST_F(Trainer, BatchRenormIsBatchNormUntilItsStart) {
  const Outcome norm = run({"norm.type=batch"}, "norm");
  EXPECT_EQ(run({"norm.type=renorm", "norm.renorm_start=1", "norm.renorm_full=1"}, "late").losses, norm.losses);
  EXPECT_NE(run({"norm.type=renorm", "norm.renorm_start=0", "norm.renorm_full=0"}, "early").losses, norm.losses);
}

TEST_F(Trainer, LearnsFromPicturesTheSameOnAnyNumberOfThreads) {
  const test::TempFolder pictures;
  test::write_pictures(pictures, {"ant", "bee", "cow"}, 9, 4);
  std::vector<std::string> keys{
      "data.kind=image-folder",   "data.path=" + pictures.str(), "data.image_size=32", "data.random_resized_crop=true",
      "data.crop_fraction=0.875", "model.name=resnet8",          "model.layers=[]",    "threads=1"};
  const Outcome one = run(keys, "one");
  EXPECT_EQ(one.result.evaluations.front().samples, 12);
  keys.back() = "threads=3";
  keys.emplace_back("data.threads=4");
  EXPECT_EQ(run(keys, "more"), one);
}

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
                                          "checkpoint.keep=9", "train.log_every=3"};
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

TEST_F(Trainer, TimesGoOnWhereTheCheckpointWas) {
  const std::vector<std::string> keys{"checkpoint.every=4"};
  run(keys, "times");
  const fs::path folder = folder_ / "times";
  fs::remove_all(folder / "checkpoints/step-000000014");
  const auto summary = [&] { return nlohmann::json::parse(read_file(folder / "summary.json")); };
  EXPECT_GT(summary().at("images_per_second"), 0);
  run(keys, "times", true);
  double last = 0;
  for (const auto& line : lines_of(folder / "metrics.jsonl")) {
    EXPECT_GE(line.at("seconds").get<double>(), last) << line;
    last = line.at("seconds");
  }
  EXPECT_GE(summary().at("seconds").get<double>(), last);

  // Of a run that had ended, nothing is known better than before; where the summary is lost, what the checkpoint tells.
  const nlohmann::json before = summary();
  run(keys, "times", true);
  EXPECT_EQ(summary(), before);
  fs::remove(folder / "summary.json");
  const Outcome again = run(keys, "times", true);
  EXPECT_EQ(again.result.images_per_second, before.at("images_per_second"));
  EXPECT_GE(again.result.seconds, last);
}

TEST_F(Trainer, SharesOfWaitingAreShares) {
  // With local statistics every worker waits for the gradients while the others of its thread compute.
  for (const std::string group : {"1", "2", "all"}) {
    for (const std::string threads : {"1", "3"}) {
      run({"norm.group=" + group, "threads=" + threads, "train.epochs=1"}, group + threads);
      for (const auto& line : lines_of(folder_ / (group + threads) / "metrics.jsonl")) {
        if (line.at("kind") != "train") continue;
        const double statistics = line.at("wait_statistics"), gradients = line.at("wait_gradients");
        EXPECT_TRUE(statistics >= 0 && gradients >= 0 && statistics + gradients <= 1) << line;
      }
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
  EXPECT_NEAR(whole.result.loss, accumulated.result.loss, 1e-4);
}

TEST_F(Trainer, EveryNormalizationResumesToTheBit) {
  for (const std::string& norm : norm_types()) {
    if (norm == "batch") continue;  // case 45
    std::vector<std::string> keys{"norm.type=" + norm, "checkpoint.every=4", "checkpoint.keep=9"};
    if (shares_statistics(norm)) keys.emplace_back("norm.group=2");
    const Outcome undisturbed = run(keys, norm);
    const fs::path folder = folder_ / norm;
    fs::remove(folder / "final.safetensors");
    for (const auto& entry : fs::directory_iterator(folder / "checkpoints")) {
      if (entry.path().filename().string() > "step-000000008") fs::remove_all(entry.path());
    }
    EXPECT_EQ(run(keys, norm, true), undisturbed) << norm;
  }
}

const std::string kAllStatistics = "train.eval_statistics=[running, precise, batch]";

/// The lines of a metrics file without what depends on the machine, and without `without`.
std::vector<nlohmann::json> metrics_of(const fs::path& folder, const std::vector<std::string>& without = {}) {
  std::vector<nlohmann::json> lines = lines_of(folder / "metrics.jsonl");
  for (nlohmann::json& json : lines) {
    for (const char* key : {"seconds", "images_per_second", "wait_statistics", "wait_gradients"}) json.erase(key);
    for (const std::string& key : without) json.erase(key);
  }
  return lines;
}

TEST_F(Trainer, FurtherStatisticsForEvaluationChangeNothingElse) {
  for (const std::string group : {"1", "2", "all"}) {
    const std::vector<std::string> keys{"norm.group=" + group, "train.eval_every=5"};
    std::vector<std::string> with = keys;
    with.insert(with.end(), {kAllStatistics, "train.precise_samples=50"});
    const Outcome plain = run(keys, "plain" + group), all = run(with, "all" + group);
    EXPECT_EQ(all, plain);
    const std::vector<std::string> added{"accuracy_precise", "loss_precise", "top5_accuracy_precise",
                                         "accuracy_batch",   "loss_batch",   "top5_accuracy_batch"};
    EXPECT_EQ(metrics_of(folder_ / ("all" + group), added), metrics_of(folder_ / ("plain" + group)));
    for (const auto& line : metrics_of(folder_ / ("all" + group))) {
      for (const std::string& key : added) EXPECT_EQ(line.contains(key), line.at("kind") == "eval") << key;
    }
    ASSERT_EQ(all.result.evaluations.size(), 3u);
    const auto summary = nlohmann::json::parse(read_file(folder_ / ("all" + group) / "summary.json"));
    EXPECT_EQ(summary.at("test_accuracy"), all.result.evaluations[0].accuracy);
    EXPECT_FALSE(summary.contains("test_accuracy_running"));
    for (const EvalResult& r : {all.result.evaluations[1], all.result.evaluations[2]}) {
      EXPECT_EQ(summary.at("test_accuracy_" + r.statistics), r.accuracy);
      EXPECT_EQ(summary.at("test_loss_" + r.statistics), r.loss);
      EXPECT_EQ(r.samples, 31);
      EXPECT_NE(r.loss, all.result.loss) << r.statistics;
    }
  }
}

TEST_F(Trainer, TheFirstStatisticsGiveTheAccuracy) {
  const std::string keys = "train.precise_samples=50";
  const Outcome all = run({kAllStatistics, keys}, "all");
  const Outcome precise = run({"train.eval_statistics=[precise]", keys}, "precise");
  const Outcome batch = run({"train.eval_statistics=[batch]"}, "batch");
  EXPECT_EQ(precise.result.loss, all.result.evaluations[1].loss);
  EXPECT_EQ(precise.result.evaluations.front().statistics, "precise");
  EXPECT_EQ(batch.result.loss, all.result.evaluations[2].loss);
  EXPECT_EQ(precise.weights, all.weights);
  EXPECT_NE(run({kAllStatistics, "train.precise_samples=12"}, "fewer").result.evaluations[1].loss, precise.result.loss);
  EXPECT_EQ(run({kAllStatistics}, "more").result.evaluations[1].loss,
            run({kAllStatistics, "train.precise_samples=83"}, "whole").result.evaluations[1].loss);
}

TEST_F(Trainer, PreciseStatisticsDoNotDependOnThreadsAndResume) {
  for (const std::string norm : {"batch", "renorm", "whitening"}) {
    const std::vector<std::string> keys{"norm.type=" + norm, "norm.group=2", kAllStatistics, "checkpoint.every=4",
                                        "checkpoint.keep=9"};
    run(keys, norm);
    const auto reference = metrics_of(folder_ / norm);
    for (const std::string threads : {"1", "3"}) {
      std::vector<std::string> other = keys;
      other.push_back("threads=" + threads);
      run(other, norm + threads);
      EXPECT_EQ(metrics_of(folder_ / (norm + threads)), reference) << norm;
    }
    const fs::path folder = folder_ / norm;
    const std::string summary = read_file(folder / "summary.json");
    fs::remove(folder / "final.safetensors");
    fs::remove(folder / "summary.json");
    // Once as after a crash in the middle, once as after one behind the last checkpoint: then nothing is evaluated.
    const Outcome end = run(keys, norm, true);
    ASSERT_EQ(end.result.evaluations.size(), 3u);
    EXPECT_EQ(nlohmann::json::parse(read_file(folder / "summary.json")).at("test_loss_precise"),
              nlohmann::json::parse(summary).at("test_loss_precise"));
    for (const auto& entry : fs::directory_iterator(folder / "checkpoints")) {
      if (entry.path().filename().string() > "step-000000008") fs::remove_all(entry.path());
    }
    run(keys, norm, true);
    EXPECT_EQ(metrics_of(folder), reference) << norm;
  }
}

TEST_F(Trainer, StoredWeightsEvaluateAsAtTheEnd) {
  const std::vector<std::string> keys{"norm.group=3", kAllStatistics, "train.precise_samples=40"};
  const Outcome trained = run(keys, "run");
  const Config config = load_config((folder_ / "run" / "config.yaml").string(), {});
  WorldOptions options;
  options.workers = config.workers;
  World world = World::threads(options);
  const auto results = evaluate(world, config, (folder_ / "run" / "final.safetensors").string(), "test");
  ASSERT_EQ(results.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(results[i].statistics, trained.result.evaluations[i].statistics);
    EXPECT_EQ(results[i].loss, trained.result.evaluations[i].loss);
    EXPECT_EQ(results[i].correct, trained.result.evaluations[i].correct);
  }
}

// One image a worker, and a layer of one value per image: its batch of one becomes beta instead of an error.
TEST_F(Trainer, EvaluationByTheBatchKnowsBatchesOfOneValue) {
  const std::vector<std::string> keys{
      "workers=3",
      "batch_per_worker=2",
      "data.train_limit=12",
      "data.test_limit=7",
      "norm.group=1",
      kAllStatistics,
      "model.layers=[{type: flatten}, {type: linear, out: 8}, {type: norm}, {type: relu}, {type: linear, out: 10}]"};
  const Outcome o = run(keys, "one");  // 7 images: a worker of 3 evaluates 2 and then 1
  ASSERT_EQ(o.result.evaluations.size(), 3u);
  for (const EvalResult& r : o.result.evaluations) EXPECT_TRUE(std::isfinite(r.loss)) << r.statistics;
}

TEST_F(Trainer, WithoutStatisticsOfBatchesThereIsOneEvaluation) {
  for (const std::string norm : {"group", "weight", "none"}) {
    EXPECT_THROW(run({"norm.type=" + norm, kAllStatistics}, norm), Error);
    const Outcome o = run({"norm.type=" + norm, "train.steps=2"}, norm);
    ASSERT_EQ(o.result.evaluations.size(), 1u);
    EXPECT_EQ(o.result.evaluations[0].loss, o.result.loss);
  }
}

TEST_F(Trainer, ReportsWhereTheLossBroke) {
  try {
    run({"optimizer.lr=1e30", "schedule.name=constant"}, "nan");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("loss of step 2 is not a finite number"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("from an earlier checkpoint"), std::string::npos) << e.what();
  }
}

TEST_F(Trainer, ProbesChangeNoResult) {
  for (const std::string key :
       {"norm.momentum=cumulative", "norm.type=renorm", "norm.type=whitening", "norm.type=weight"}) {
    std::vector<std::string> plain{key, "train.accumulate=2", "threads=3"};
    if (key != "norm.type=weight") plain.emplace_back("norm.group=2");
    std::vector<std::string> probed = plain;
    probed.insert(probed.end(), {"probes.names=[all]", "probes.every=3"});
    EXPECT_EQ(run(probed, "probed" + key), run(plain, "plain" + key)) << key;
    EXPECT_FALSE(fs::exists(folder_ / ("plain" + key) / "probes.jsonl"));
  }
}

TEST_F(Trainer, ProbesLookOnTime) {
  run({"probes.names=[all]", "probes.every=3", "norm.group=2", "train.accumulate=2"}, "run");
  std::map<std::string, std::vector<int>> steps;
  for (const auto& row : lines_of(folder_ / "run" / "probes.jsonl")) {
    std::vector<int>& of_probe = steps[row.at("probe")];
    if (of_probe.empty() || of_probe.back() != row.at("step")) of_probe.push_back(row.at("step"));
  }
  EXPECT_EQ(steps.size(), probe_names().size());
  const std::vector<int> expected{3, 6, 7};  // every third update and the last
  for (const auto& [probe, found] : steps) EXPECT_EQ(found, expected) << probe;
}

TEST_F(Trainer, RefusesToProbeUnknownLayers) {
  try {
    run({"probes.names=[all]", "probes.layers=[norm1, linaer18]"}, "run");
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
