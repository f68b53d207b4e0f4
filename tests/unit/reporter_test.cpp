#include "train/reporting/reporter.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "support/temp_dir.hpp"

namespace syncbn {
namespace {

class ReporterTest : public ::testing::Test {
 protected:
  ReporterTest() {
    experiment.config.output.tensorboard = false;
    experiment.total_steps = 200;
    request.watch = [this](const ProgressState& state) { eta_s = state.eta_s; };
  }
  static TrainStatistics update_of(std::int64_t samples) {
    TrainStatistics update;
    update.add(1, 1, samples);
    return update;
  }

  const TempDir dir;
  RunDirectory directory = RunDirectory::create(dir / "run", "", {}, {});
  Experiment experiment;
  TrainRequest request;
  double eta_s = 0;
};

TEST_F(ReporterTest, EstimatesTheTimeLeftFromTheStepsOfThisStart) {
  experiment.batches_per_epoch = 10;
  Reporter reporter(experiment, directory, 100, request);
  reporter.restore({{"interval_loss_sum", "0x0p+0"},
                    {"interval_correct", "0"},
                    {"interval_samples", "0"},
                    {"train_seconds", "0x1p+20"}});
  for (const std::int64_t step : {101, 102, 103})
    reporter.step(step, 0.1, update_of(2), {2.0 * static_cast<double>(step)});
  EXPECT_DOUBLE_EQ(eta_s, 2 * 97);
}

TEST_F(ReporterTest, KnowsTheSpeedWhereEveryStepIsEvaluated) {
  experiment.batches_per_epoch = 1;
  Reporter reporter(experiment, directory, 0, request);
  for (const std::int64_t step : {1, 2, 3}) {
    reporter.step(step, 0.1, update_of(20), {10.0 * static_cast<double>(step)});
    if (step == 3) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    reporter.evaluation(step, {EvalResult{}}, 0, false);
  }
  EXPECT_GT(reporter.images_per_second(), 20 / 9.91);  // the evaluations do not count
  EXPECT_LT(reporter.images_per_second(), 20 / 5.0);
  EXPECT_NEAR(eta_s, 197 * 20 / reporter.images_per_second(), 1e-6);
}

}  // namespace
}  // namespace syncbn
