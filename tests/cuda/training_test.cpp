// Whole trainings with `device: cuda` against the same on the CPU. The CUDA backend is the one that $SYNCBN_CUDA_MODULE
// names (launch/gpu-check names the real one), else the stand-in.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/train/trainer.hpp"

namespace syncbn::test {
namespace {

struct Outcome {
  std::string weights;         // final.safetensors, byte by byte
  std::vector<double> losses;  // of every logged step and evaluation
};

class CudaTraining : public ::testing::Test {
 protected:
  CudaTraining() { ::setenv("SYNCBN_CUDA_MODULE", STAND_IN_MODULE, /*overwrite=*/0); }

  Outcome run(const std::string& name, std::vector<std::string> overrides) {
    std::vector<std::string> all = {"workers=4",           "batch_per_worker=2", "data.train_limit=15",
                                    "data.test_limit=9",   "train.epochs=2",     "train.log_every=1",
                                    "data.crop_padding=2", "threads=2",          "optimizer.lr=0.02"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    TrainRequest request;
    request.config = load_config("quickstart", all);
    request.run_dir = folder_ / name;
    WorldOptions options;
    options.workers = request.config.workers;
    options.threads = request.config.threads;
    World world = World::threads(options);
    train(world, request);
    Outcome outcome;
    outcome.weights = slurp(request.run_dir + "/final.safetensors");
    std::istringstream metrics(slurp(request.run_dir + "/metrics.jsonl"));
    for (std::string line; std::getline(metrics, line);) {
      const auto json = nlohmann::json::parse(line);
      outcome.losses.push_back(json["loss"].get<double>());
    }
    return outcome;
  }

  /// Near in the first steps; later ones differ as trainings do whose sums are rounded differently.
  void expect_agreement(const std::vector<std::string>& overrides) {
    std::vector<std::string> on_device = overrides;
    on_device.emplace_back("device=cuda");
    const std::string name = std::to_string(runs_++);
    const Outcome cpu = run("cpu" + name, overrides), cuda = run("cuda" + name, on_device);
    ASSERT_EQ(cpu.losses.size(), cuda.losses.size());
    ASSERT_GE(cpu.losses.size(), 3U);
    for (std::size_t i = 0; i < cpu.losses.size(); ++i) {
      EXPECT_NEAR(cuda.losses[i], cpu.losses[i], (i < 2 ? 1e-5 : 2e-3) * (1 + std::abs(cpu.losses[i]))) << "line " << i;
    }
    EXPECT_EQ(cuda.weights.size(), cpu.weights.size());
  }

  TempDir folder_;
  int runs_ = 0;
};

TEST_F(CudaTraining, AgreesWithTheCpu) {
  for (const char* group : {"1", "2", "all"}) {
    SCOPED_TRACE(group);
    expect_agreement({std::string("norm.group=") + group});
  }
}

TEST_F(CudaTraining, AgreesWithTheCpuWithoutNormalizationAndWithOthers) {
  for (const char* norm : {"none", "group", "renorm", "weight"}) {
    SCOPED_TRACE(norm);
    expect_agreement({std::string("norm.type=") + norm});
  }
}

TEST_F(CudaTraining, AgreesWithTheCpuForEveryKindOfUpdate) {
  expect_agreement({"optimizer.name=lars", "optimizer.lr=1"});
  expect_agreement({"optimizer.name=adamw", "optimizer.lr=0.001", "optimizer.weight_decay=0.1"});
  expect_agreement({"optimizer.clip_norm=0.1"});
  expect_agreement({"train.accumulate=2", "norm.momentum=cumulative"});
}

TEST_F(CudaTraining, ProbesSeeTheSame) {
  const std::vector<std::string> options = {"probes.names=[all]", "probes.every=1", "probes.units=8", "norm.group=2"};
  run("cpu", options);
  std::vector<std::string> on_device = options;
  on_device.emplace_back("device=cuda");
  run("cuda", on_device);
  std::istringstream cpu(slurp(folder_ / "cpu/probes.jsonl")), cuda(slurp(folder_ / "cuda/probes.jsonl"));
  int compared = 0;
  for (std::string want_line, got_line; std::getline(cpu, want_line) && std::getline(cuda, got_line);) {
    const auto want = nlohmann::json::parse(want_line), got = nlohmann::json::parse(got_line);
    ASSERT_EQ(want["step"], got["step"]);
    if (want["step"].get<int>() > 1) break;  // later ones differ as trainings do
    ASSERT_EQ(want.size(), got.size());
    for (const auto& [key, value] : want.items()) {
      if (!value.is_number()) {
        EXPECT_EQ(value, got[key]) << want_line;
        continue;
      }
      EXPECT_NEAR(value.get<double>(), got[key].get<double>(), 2e-3 * (1e-2 + std::abs(value.get<double>())))
          << key << " of " << want_line;
      ++compared;
    }
  }
  EXPECT_GT(compared, 100);
}

TEST_F(CudaTraining, HasTheSameBitsOnAnyNumberOfThreadsAndInEveryRun) {
  const Outcome first = run("one", {"device=cuda", "threads=1"});
  EXPECT_EQ(run("two", {"device=cuda", "threads=1"}).weights, first.weights);
  EXPECT_EQ(run("four", {"device=cuda", "threads=4"}).weights, first.weights);
}

/// Losses of the first steps may differ by `tolerance`, relative and absolute.
struct Narrow {
  const char* precision;
  double tolerance;
  friend std::ostream& operator<<(std::ostream& out, const Narrow& n) { return out << n.precision; }
};

class CudaPrecision : public CudaTraining, public ::testing::WithParamInterface<Narrow> {
 protected:
  Outcome run_narrow(const std::string& name, std::vector<std::string> options) {
    options.insert(options.end(), {"device=cuda", std::string("precision=") + GetParam().precision});
    return run(name, options);
  }
  Outcome run_float32(const std::string& name, std::vector<std::string> options) {
    options.emplace_back("device=cuda");
    return run(name, options);
  }
};

TEST_P(CudaPrecision, FollowsFloat32) {
  for (const char* norm : {"batch", "group", "weight"}) {
    SCOPED_TRACE(norm);
    const std::vector<std::string> options = {std::string("norm.type=") + norm};
    const Outcome want = run_float32(std::string("float32-") + norm, options);
    const Outcome got = run_narrow(std::string("narrow-") + norm, options);
    ASSERT_EQ(got.losses.size(), want.losses.size());
    EXPECT_NE(got.losses, want.losses);
    for (std::size_t i = 0; i < want.losses.size(); ++i) {
      EXPECT_NEAR(got.losses[i], want.losses[i], GetParam().tolerance * (1 + want.losses[i])) << "line " << i;
    }
  }
}

// Every kind of layer, for as long as it takes to learn something. Single losses scatter by then.
TEST_P(CudaPrecision, LearnsAsFloat32Does) {
  constexpr std::size_t kEpochs = 8, kSteps = 4;
  const std::vector<std::string> options = {
      "model.layers=[{type: conv2d, out: 8, kernel: 5, stride: 2, padding: 2}, {type: norm}, {type: leaky_relu}, "
      "{type: max_pool, kernel: 2}, {type: conv2d, out: 8, kernel: 3, padding: 1}, {type: tanh}, "
      "{type: avg_pool, kernel: 2}, {type: dropout, p: 0.1}, {type: flatten}, {type: linear, out: 32}, {type: norm}, "
      "{type: sigmoid}, {type: linear, out: 10}]",
      "batch_per_worker=4",
      "data.train_limit=64",
      "train.epochs=8",
      "data.crop_padding=0",
      "optimizer.lr=0.2",
      "train.eval_every=0"};
  const Outcome wide = run_float32("float32", options), narrow = run_narrow("narrow", options);
  ASSERT_EQ(wide.losses.size(), kEpochs * kSteps + 1);
  ASSERT_EQ(narrow.losses.size(), wide.losses.size());
  const auto epoch = [&](const Outcome& o, std::size_t e) {
    return std::accumulate(o.losses.data() + e * kSteps, o.losses.data() + (e + 1) * kSteps, 0.0) / kSteps;
  };
  for (std::size_t e = 0; e < kEpochs; ++e) EXPECT_NEAR(epoch(narrow, e), epoch(wide, e), 0.02 * epoch(wide, e)) << e;
  EXPECT_LT(epoch(narrow, kEpochs - 1), 0.75 * epoch(narrow, 0));
}

TEST_P(CudaPrecision, HasTheSameBitsOnAnyNumberOfThreads) {
  EXPECT_EQ(run_narrow("one", {"threads=1"}).weights, run_narrow("four", {"threads=4"}).weights);
}

INSTANTIATE_TEST_SUITE_P(All, CudaPrecision, ::testing::Values(Narrow{"tf32", 2e-3}, Narrow{"bfloat16", 2e-2}),
                         [](const auto& test) { return test.param.precision; });

}  // namespace
}  // namespace syncbn::test
