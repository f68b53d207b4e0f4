// What stored weights predict with `device: cuda`, whose logits lie in the device's memory, against the CPU. See
// training_test.cpp for the backend.

#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>

#include "support/temp_dir.hpp"
#include "syncbn/train/trainer.hpp"

namespace syncbn::test {
namespace {

/// Rows of predictions: index, label, prediction, probability, label_probability, label_rank.
std::vector<std::vector<double>> numbers(const std::string& csv) {
  std::vector<std::vector<double>> rows;
  std::istringstream lines(csv);
  std::string line;
  for (std::getline(lines, line); std::getline(lines, line);) {
    std::istringstream cells(line);
    rows.emplace_back();
    for (std::string cell; std::getline(cells, cell, ',');) rows.back().push_back(std::stod(cell));
  }
  return rows;
}

TEST(CudaEvaluation, PredictsWhatTheCpuDoes) {
  ::setenv("SYNCBN_CUDA_MODULE", STAND_IN_MODULE, /*overwrite=*/0);
  const TempDir folder;
  const auto config = [](const std::vector<std::string>& more) {
    std::vector<std::string> keys = {"workers=4", "batch_per_worker=2", "threads=2", "data.train_limit=64",
                                     "data.test_limit=31"};
    keys.insert(keys.end(), more.begin(), more.end());
    return load_config("quickstart", keys);
  };
  WorldOptions options;
  options.workers = 4;
  options.threads = 2;
  TrainRequest request;
  request.config = config({"train.epochs=2"});
  request.run_dir = folder / "run";
  World world = World::threads(options);
  train(world, request);
  const auto predictions = [&](const std::vector<std::string>& keys) {
    World another = World::threads(options);
    const EvalResult r =
        evaluate(another, config(keys), folder / "run/final.safetensors", "test", folder / "p.csv").front();
    auto rows = numbers(slurp(folder / "p.csv"));
    std::int64_t correct = 0, in_top5 = 0;
    for (const auto& row : rows) {
      correct += row.back() == 1;
      in_top5 += row.back() <= 5;
    }
    EXPECT_EQ(r.correct, correct);
    EXPECT_EQ(r.top5_accuracy, static_cast<double>(in_top5) / 31);
    return rows;
  };
  const auto want = predictions({});
  ASSERT_EQ(want.size(), 31U);
  for (const auto& [precision, tolerance] :
       {std::pair("float32", 1e-4), std::pair("float16", 1e-2), std::pair("bfloat16", 5e-2)}) {
    SCOPED_TRACE(precision);
    const auto got = predictions({"device=cuda", std::string("precision=") + precision});
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      for (const std::size_t column : {0, 1}) EXPECT_EQ(got[i][column], want[i][column]) << i;  // index and label
      for (const std::size_t column : {3, 4}) EXPECT_NEAR(got[i][column], want[i][column], tolerance) << i;
    }
  }
}

}  // namespace
}  // namespace syncbn::test
