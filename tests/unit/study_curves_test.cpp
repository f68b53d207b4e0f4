#include "study/report/curves.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "support/temp_dir.hpp"

namespace syncbn {
namespace {

/// A study of one point, whose trials lie in `dir`.
class StudyCurves : public testing::Test {
 protected:
  StudyCurves() { results_.dir = dir_.path(); }

  TrialRow& add(const std::string& metrics) {
    TrialRow row;
    row.hash = row.folder = "trial" + std::to_string(results_.rows.size());
    row.outcome = Outcome{};
    std::filesystem::create_directory(dir_ / row.folder);
    spit(dir_ / row.folder + "/metrics.jsonl", metrics);
    return results_.rows.emplace_back(row);
  }
  static std::string line(const std::string& kind, int step, double accuracy) {
    const std::string number = std::to_string(step);
    return "{\"kind\":\"" + kind + "\",\"step\":" + number + ",\"epoch\":" + number + ",\"loss\":" + number +
           ",\"accuracy\":" + std::to_string(accuracy) + "}\n";
  }

  TempDir dir_;
  Results results_;
};

TEST_F(StudyCurves, AreMeansOverTheTrialsWithAResult) {
  add(line("eval", 1, 0.4) + line("eval", 2, 0.7));
  add(line("eval", 1, 0.6) + line("eval", 2, 0.9) + line("eval", 3, 0.9));
  add(line("eval", 1, 0.0) + line("eval", 2, 0.0)).search = true;
  add(line("eval", 1, 0.0)).outcome->status = Outcome::Status::diverged;
  add(line("eval", 1, 0.0)).outcome.reset();
  const std::vector<Curve> curves = read_curves(results_);
  ASSERT_EQ(curves.size(), 1u);
  EXPECT_EQ(curves[0].epochs, (std::vector<double>{1, 2}));
  ASSERT_EQ(curves[0].errors.size(), 2u);
  EXPECT_NEAR(curves[0].errors[0], 50, 1e-9);
  EXPECT_NEAR(curves[0].errors[1], 20, 1e-9);
  EXPECT_NEAR(curves[0].halves[1], 12.706204736 * 10, 1e-6);  // of two values 20 apart
  EXPECT_TRUE(std::isnan(curves[0].train_error));
}

TEST_F(StudyCurves, OfLongLogsHaveTheLastStep) {
  std::string log;
  for (int step = 1; step <= 100; ++step) log += line("eval", step, 0.5) + line("train", step, step / 100.0);
  add(log);
  const Curve curve = read_curves(results_).at(0);
  EXPECT_LE(curve.epochs.size(), 60u);
  EXPECT_EQ(curve.epochs.back(), 100);
  EXPECT_EQ(curve.train_epochs.back(), 100);
  EXPECT_EQ(curve.losses.back(), 100);
  EXPECT_NEAR(curve.train_error, 4.5, 1e-9);  // of the last tenth: 9, 8, ..., 0
}

TEST_F(StudyCurves, LeaveOutOddLines) {
  const std::string good = line("eval", 1, 0.5) + line("train", 1, 0.25);
  add(good + R"({"kind":5,"step":{}}
{"kind":"eval","step":2,"epoch":1}
{"kind":"eval","step":1,"epoch":[],"accuracy":0.1}
{"kind":"train","step":"2","epoch":1,"loss":1,"accuracy":0.1}
{"kind":"train","step":1e300,"epoch":1,"loss":1,"accuracy":0.1}
{"kind":"train","step":2,"epoch":1,"loss":1,"accuracy":"0.1"}
{"kind":"loss_scale","step":1,"epoch":7,"accuracy":0.1}
"kind step epoch"
)");
  const Curve curve = read_curves(results_).at(0);
  EXPECT_EQ(curve.epochs, std::vector<double>{1});
  EXPECT_EQ(curve.errors, std::vector<double>{50});
  EXPECT_EQ(curve.losses, std::vector<double>{1});
  EXPECT_EQ(curve.train_error, 75);
}

}  // namespace
}  // namespace syncbn
