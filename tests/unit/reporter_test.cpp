#include "train/reporter.hpp"

#include <gtest/gtest.h>

#include "support/temp_dir.hpp"

namespace syncbn {
namespace {

TEST(Reporter, EstimatesTheTimeLeftFromTheStepsOfThisStart) {
  const TempDir dir;
  RunDirectory directory = RunDirectory::create(dir / "run", "", {}, {});
  Experiment experiment;
  experiment.config.output.tensorboard = false;
  experiment.batches_per_epoch = 10;
  experiment.total_steps = 200;
  TrainRequest request;
  double eta_s = 0;
  request.watch = [&](const ProgressState& state) { eta_s = state.eta_s; };
  Reporter reporter(experiment, directory, 100, request);
  reporter.restore({{"interval_loss_sum", "0x0p+0"},
                    {"interval_correct", "0"},
                    {"interval_samples", "0"},
                    {"train_seconds", "0x1p+20"}});
  TrainStatistics update;
  update.add(1, 1, 2);
  for (const std::int64_t step : {101, 102, 103}) reporter.step(step, 0.1, update, {2.0 * static_cast<double>(step)});
  EXPECT_DOUBLE_EQ(eta_s, 2 * 97);
}

}  // namespace
}  // namespace syncbn
