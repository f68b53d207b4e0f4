// Whole trainings with `device: cuda` against the same on the CPU. The CUDA backend is the one that $SYNCBN_CUDA_MODULE
// names (launch/gpu-check names the real one), else the stand-in.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/train/trainer.hpp"
#include "train/storage/checkpoint.hpp"

namespace syncbn::test {
namespace {

struct Outcome {
  std::string weights;         // final.safetensors, byte by byte
  std::vector<double> losses;  // of every logged step and evaluation
  std::vector<int> left_out;   // updates, because float16 could not hold their gradients
  double loss_scale = 65536;   // at the end
  double accuracy = 0;         // on the test images
};

class CudaTraining : public ::testing::Test {
 protected:
  CudaTraining() { ::setenv("SYNCBN_CUDA_MODULE", STAND_IN_MODULE, /*overwrite=*/0); }

  Outcome run(const std::string& name, std::vector<std::string> overrides, bool resume = false) {
    std::vector<std::string> all = {"workers=4",           "batch_per_worker=2", "data.train_limit=15",
                                    "data.test_limit=9",   "train.epochs=2",     "train.log_every=1",
                                    "data.crop_padding=2", "threads=2",          "optimizer.lr=0.02"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    TrainRequest request;
    request.config = load_config("quickstart", all);
    request.run_dir = folder_ / name;
    request.resume = resume;
    WorldOptions options;
    options.workers = request.config.workers;
    options.threads = request.config.threads;
    World world = World::threads(options);
    Outcome outcome;
    outcome.accuracy = train(world, request).accuracy;
    outcome.weights = slurp(request.run_dir + "/final.safetensors");
    std::istringstream metrics(slurp(request.run_dir + "/metrics.jsonl"));
    for (std::string line; std::getline(metrics, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json["kind"] == "loss_scale") {
        outcome.loss_scale = json["loss_scale"].get<double>();
        if (!json["updated"].get<bool>()) outcome.left_out.push_back(json["step"].get<int>());
      } else {
        outcome.losses.push_back(json["loss"].get<double>());
      }
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

  /// Of the first update: later ones differ as trainings do. Returns how many numbers there were.
  int expect_same_probes(const std::string& expected, const std::string& other, double tolerance) {
    std::istringstream wanted(slurp(folder_ / expected + "/probes.jsonl")),
        found(slurp(folder_ / other + "/probes.jsonl"));
    int compared = 0;
    for (std::string want_line, got_line; std::getline(wanted, want_line) && std::getline(found, got_line);) {
      const auto want = nlohmann::json::parse(want_line), got = nlohmann::json::parse(got_line);
      EXPECT_EQ(want["step"], got["step"]);
      if (want["step"].get<int>() > 1) break;
      EXPECT_EQ(want.size(), got.size());
      for (const auto& [key, value] : want.items()) {
        if (!value.is_number()) {
          EXPECT_EQ(value, got[key]) << want_line;
          continue;
        }
        EXPECT_NEAR(value.get<double>(), got[key].get<double>(), tolerance * (1e-2 + std::abs(value.get<double>())))
            << key << " of " << want_line;
        ++compared;
      }
    }
    return compared;
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
  EXPECT_GT(expect_same_probes("cpu", "cuda", 2e-3), 100);
}

TEST_F(CudaTraining, HasTheSameBitsOnAnyNumberOfThreadsAndInEveryRun) {
  const Outcome first = run("one", {"device=cuda", "threads=1"});
  EXPECT_EQ(run("two", {"device=cuda", "threads=1"}).weights, first.weights);
  EXPECT_EQ(run("four", {"device=cuda", "threads=4"}).weights, first.weights);
}

/// An environment variable of the stand-in for the length of a test.
class Wish {
 public:
  Wish(const char* name, const std::string& value) : name_(name) { ::setenv(name, value.c_str(), 1); }
  ~Wish() { ::unsetenv(name_); }

 private:
  const char* name_;
};

bool on_stand_in() {
  return std::getenv("SYNCBN_CUDA_MODULE") == std::string(STAND_IN_MODULE);
}

/// What profilers saw, and how often.
std::map<std::string, int> ranges_in(const std::string& file) {
  std::map<std::string, int> seen;
  std::istringstream ranges(slurp(file));
  for (std::string name; std::getline(ranges, name);) ++seen[name];
  return seen;
}

/// A short training of a small network.
std::vector<std::string> small_and(std::vector<std::string> options) {
  options.insert(
      options.end(),
      {"device=cuda", "train.epochs=3", "data.test_limit=3",
       "model.layers=[{type: conv2d, out: 8, kernel: 5, stride: 4}, {type: norm}, {type: relu}, {type: conv2d, "
       "out: 8, kernel: 3}, {type: norm}, {type: flatten}, {type: linear, out: 10}]"});
  return options;
}

// Two kinds of passes, for batches of 8 and of 7 images; each is captured when it comes for the second time.
TEST_F(CudaTraining, GraphsChangeNoBit) {
  const std::vector<std::vector<std::string>> variants = {
      {"norm.group=all"},
      {"norm.group=1", "threads=1", "precision=bfloat16"},
      {"workers=1", "batch_per_worker=8"},
      {"workers=10", "batch_per_worker=1", "norm.type=group", "precision=float16", "optimizer.clip_norm=1"}};
  for (const std::vector<std::string>& variant : variants) {
    SCOPED_TRACE(variant.front());
    const std::string name = std::to_string(runs_++);
    std::vector<std::string> options = small_and(variant);
    const Wish wish("STAND_IN_RANGES", folder_ / "ranges" + name);
    const Outcome graphs = run("graphs" + name, options);
    options.emplace_back("cuda_graphs=false");
    const Outcome calls = run("calls" + name, options);
    EXPECT_EQ(graphs.losses, calls.losses);
    EXPECT_TRUE(graphs.weights == calls.weights);
    if (!on_stand_in()) continue;
    std::map<std::string, int> seen = ranges_in(folder_ / "ranges" + name);
    // A capture takes two ranges, a launch one: of 6 steps 2 were queued call by call and 2 captured.
    EXPECT_EQ(seen["forward graph"], 2 * 2 + 2);
    EXPECT_EQ(seen["backward graph"], 2 * 2 + 2);
  }
}

TEST_F(CudaTraining, WhatIsNotTheSameInEveryStepIsNoGraph) {
  for (const char* option : {"train.accumulate=2", "norm.momentum=cumulative", "norm.type=renorm", "norm.group=2",
                             "model.layers=[{type: flatten}, {type: dropout, p: 0.1}, {type: linear, out: 10}]"}) {
    SCOPED_TRACE(option);
    const std::string name = std::to_string(runs_++);
    const Wish wish("STAND_IN_RANGES", folder_ / "ranges" + name);
    std::vector<std::string> options = small_and({});
    options.emplace_back(option);
    const Outcome first = run("first" + name, options);
    options.emplace_back("cuda_graphs=false");
    const Outcome second = run("second" + name, options);
    EXPECT_TRUE(first.weights == second.weights);
    if (!on_stand_in()) continue;
    EXPECT_EQ(ranges_in(folder_ / "ranges" + name).count("forward graph"), 0U);
  }
}

TEST_F(CudaTraining, ProbesSeeTheirStepsLayerByLayer) {
  std::vector<std::string> options = small_and({"probes.names=[all]", "probes.every=4"});
  run("graphs", options);
  options.emplace_back("cuda_graphs=false");
  run("calls", options);
  EXPECT_EQ(slurp(folder_ / "graphs/probes.jsonl"), slurp(folder_ / "calls/probes.jsonl"));
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
  const std::vector<std::vector<std::string>> variants = {
      {"train.accumulate=2", "optimizer.clip_norm=0.5", "optimizer.lr=0.2"},
      {"norm.type=group", "train.epochs=1"},
      {"norm.type=weight", "train.epochs=1"}};
  for (const std::vector<std::string>& options : variants) {
    SCOPED_TRACE(options.front());
    const Outcome want = run_float32("float32-" + options.front(), options);
    const Outcome got = run_narrow("narrow-" + options.front(), options);
    ASSERT_EQ(got.losses.size(), want.losses.size());
    // A device need not round to TF32 where it may; the stand-in does.
    const bool rounds = std::string(GetParam().precision) != "tf32" || !std::getenv("SYNCBN_EXPECT_CUDA");
    EXPECT_TRUE(!rounds || got.losses != want.losses);
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

TEST_P(CudaPrecision, ProbesSeeTheSame) {
  const std::vector<std::string> options = {"probes.names=[norms, gradient_noise_scale, activations]", "probes.every=1",
                                            "probes.units=8", "train.epochs=0.5", "norm.group=2"};
  run_float32("float32", options);
  run_narrow("narrow", options);
  EXPECT_GT(expect_same_probes("float32", "narrow", 15 * GetParam().tolerance), 100);
}

TEST_P(CudaPrecision, HasTheSameBitsOnAnyNumberOfThreads) {
  EXPECT_EQ(run_narrow("one", {"threads=1"}).weights, run_narrow("four", {"threads=4"}).weights);
}

// So large weights that the gradient overflows until the loss's scale has come down.
TEST_F(CudaTraining, Float16LeavesOutUpdatesThatOverflowAndGoesOnFromACheckpoint) {
  const std::vector<std::string> options = {"device=cuda",         "precision=float16",  "norm.type=none",
                                            "model.init=gaussian", "model.init_std=0.3", "optimizer.name=adamw",
                                            "optimizer.lr=0.001",  "train.epochs=1",     "data.train_limit=56",
                                            "checkpoint.every=1",  "checkpoint.keep=9"};
  const Outcome whole = run("whole", options);
  ASSERT_GE(whole.left_out.size(), 2U);
  ASSERT_LE(whole.left_out.size(), 6U);
  EXPECT_EQ(whole.left_out.front(), 1);
  EXPECT_EQ(whole.loss_scale, 65536 / std::exp2(whole.left_out.size()));
  const auto checkpoint = [&](int step) {
    return CheckpointStore::load(folder_ / "whole/checkpoints/step-00000000" + std::to_string(step));
  };
  int updates = 0;
  for (int step = 1; step <= 7; ++step) {
    const TrainingState state = checkpoint(step), before = checkpoint(std::max(1, step - 1));
    const bool left_out = std::count(whole.left_out.begin(), whole.left_out.end(), step) == 1;
    updates += !left_out;
    EXPECT_EQ(state.scalars.at("updates"), std::to_string(updates));
    EXPECT_EQ(state.model.serialize() == before.model.serialize(), left_out) << step;
    EXPECT_EQ(state.optimizer.serialize() == before.optimizer.serialize(), left_out) << step;
  }
  namespace fs = std::filesystem;
  for (const int step : {2, 5}) {
    const std::string name = "from-" + std::to_string(step);
    fs::copy(folder_ / "whole", folder_ / name, fs::copy_options::recursive);
    fs::remove(folder_ / name + "/final.safetensors");
    for (int later = step + 1; later <= 7; ++later)
      fs::remove_all(folder_ / name + "/checkpoints/step-00000000" + std::to_string(later));
    const Outcome resumed = run(name, options, /*resume=*/true);
    EXPECT_EQ(resumed.weights, whole.weights);
    EXPECT_EQ(resumed.losses, whole.losses);
    EXPECT_EQ(resumed.left_out, whole.left_out);
    EXPECT_EQ(resumed.loss_scale, whole.loss_scale);
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaPrecision,
                         ::testing::Values(Narrow{"tf32", 2e-3}, Narrow{"bfloat16", 2e-2}, Narrow{"float16", 2e-3}),
                         [](const auto& test) { return test.param.precision; });

TEST_F(CudaTraining, ErrorsOfTheDeviceSayWhere) {
  if (!on_stand_in()) GTEST_SKIP() << "a device does not fail at will";
  const std::string worker = ", (rank 0, worker [0-3], step [0-3]|worker [0-3] \\(rank 0, .*\\))";
  struct Case {
    std::string failure, message, options = "cuda_graphs=false";
  };
  for (const Case& c :
       {Case{"cudnnConvolution 3", "cuDNN: .* \\(device 0\\), in [a-z0-9]+ forward" + worker},
        Case{"cudnnConvolution 90", "cuDNN: .* \\(device 0\\), in [a-z0-9]+ (for|back)ward" + worker},
        Case{"cublasLtMatmul 9", "cuBLASLt: .* \\(device 0\\), in linear[0-9]* (for|back)ward" + worker},
        Case{"cudaLaunchKernelEx 700", "CUDA: .* \\(cudaErrorNotSupported, device 0\\), (in|at) .*" + worker},
        Case{"cudaMallocAsync 100", "CUDA: device 0 cannot give .* are free\\), in .*" + worker + "; use smaller .*"},
        Case{"cudaLaunchKernelEx 600", "CUDA: .* \\(cudaErrorNotSupported, device 0\\), (in|at) .*" + worker,
             "norm.group=1"},  // in a capture, which the end of the worker's parts spoils for others
        Case{"cudaStreamEndCapture 2", "CUDA: ending a capture: .*, in backward graph" + worker, "train.epochs=4"},
        Case{"cudaGraphInstantiateWithFlags 1", "CUDA: .*: out of memory .*; cuda_graphs=false .*", "train.epochs=4"},
        Case{"cudaGraphLaunch 3", "CUDA: starting a graph: .*, in forward graph" + worker, "train.epochs=4"},
        // By whoever asks next: CUDA, or one of its libraries.
        Case{"kernel 700",
             ".*\\((cudaErrorIllegalAddress, device 0|device 0, cudaErrorIllegalAddress)\\)(, (in|at) .*)?" + worker +
                 "; an earlier call .* CUDA_LAUNCH_BLOCKING=1 .* shows"}}) {
    SCOPED_TRACE(c.failure);
    const Wish wish("STAND_IN_FAILURE", c.failure);
    try {
      run(std::to_string(runs_++), {"device=cuda", c.options});
      ADD_FAILURE() << "nothing failed";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), ::testing::MatchesRegex(c.message));
    }
  }
}

TEST_F(CudaTraining, ProfilersSeeARangeForEachLayer) {
  if (!on_stand_in()) GTEST_SKIP() << "needs a profiler";
  const Wish wish("STAND_IN_RANGES", folder_ / "ranges");
  run("profiled", {"device=cuda", "cuda_graphs=false"});
  std::map<std::string, int> seen = ranges_in(folder_ / "ranges");
  constexpr int kSteps = 4, kWorkers = 4;
  EXPECT_GE(seen["conv2d0 forward"], kSteps * kWorkers);
  EXPECT_EQ(seen["conv2d0 backward"], 2 * kSteps * kWorkers) << "of the input and of the weights";
  EXPECT_GE(seen["update"], kSteps);
  const auto messages =
      std::count_if(seen.begin(), seen.end(), [](const auto& s) { return s.first.ends_with(" message"); });
  EXPECT_EQ(messages, 5) << "one for each batch norm layer";
}

TEST_F(CudaTraining, LearnsAsMuchAsTheCpuAndTheSameInEveryRun) {
  if (on_stand_in()) GTEST_SKIP() << "too long for the stand-in";
  const std::vector<std::string> whole = {"workers=8",      "data.train_limit=4000", "data.test_limit=1000",
                                          "train.epochs=3", "data.crop_padding=0",   "train.log_every=100",
                                          "threads=0",      "optimizer.lr=0.05"};
  std::vector<std::string> on_device = whole;
  on_device.emplace_back("device=cuda");
  const Outcome cpu = run("cpu", whole), cuda = run("cuda", on_device), again = run("again", on_device);
  EXPECT_GT(cpu.accuracy, 0.9);
  EXPECT_NEAR(cuda.accuracy, cpu.accuracy, 0.03);
  EXPECT_EQ(again.weights, cuda.weights);
}

}  // namespace
}  // namespace syncbn::test
