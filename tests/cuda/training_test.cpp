// Whole trainings with `device: cuda` against the same on the CPU. The CUDA backend is the one that $SYNCBN_CUDA_MODULE
// names (launch/gpu-check names the real one), else the stand-in.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <nlohmann/json.hpp>
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
  expect_agreement({"norm.type=none"});
  expect_agreement({"norm.type=group"});
}

TEST_F(CudaTraining, HasTheSameBitsOnAnyNumberOfThreadsAndInEveryRun) {
  const Outcome first = run("one", {"device=cuda", "threads=1"});
  EXPECT_EQ(run("two", {"device=cuda", "threads=1"}).weights, first.weights);
  EXPECT_EQ(run("four", {"device=cuda", "threads=4"}).weights, first.weights);
}

}  // namespace
}  // namespace syncbn::test
