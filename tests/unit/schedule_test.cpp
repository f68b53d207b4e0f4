#include "syncbn/optim/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

ScheduleOptions options_of(const std::string& name, double lr) {
  ScheduleOptions options;
  options.name = name;
  options.lr = lr;
  return options;
}

TEST(Schedule, ConstantStays) {
  const auto options = options_of("constant", 0.3);
  for (const int step : {0, 1, 999}) EXPECT_EQ(learning_rate(options, step, 1000), 0.3);
}

// He et al. 2016, section 4.2: 0.1, divided by 10 at 32k and 48k iterations, ended at 64k.
TEST(Schedule, StepAtStepNumbers) {
  auto options = options_of("step", 0.1);
  options.milestones = {32000, 48000};
  EXPECT_EQ(learning_rate(options, 31999, 64000), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 32000, 64000), 0.01);
  EXPECT_DOUBLE_EQ(learning_rate(options, 47999, 64000), 0.01);
  EXPECT_DOUBLE_EQ(learning_rate(options, 48000, 64000), 0.001);
}

TEST(Schedule, StepAtFractions) {
  auto options = options_of("step", 1);
  options.milestones = {0.5, 0.75};
  options.gamma = 0.5;
  EXPECT_EQ(learning_rate(options, 49, 100), 1);
  EXPECT_EQ(learning_rate(options, 50, 100), 0.5);
  EXPECT_EQ(learning_rate(options, 75, 100), 0.25);
  options.milestones = {0.55};  // 0.55 x 100 is a little more than 55
  EXPECT_EQ(learning_rate(options, 54, 100), 1);
  EXPECT_EQ(learning_rate(options, 55, 100), 0.5);
}

// Made with PyTorch 1.13: OneCycleLR(max_lr=0.4, total_steps=N), the other options at their defaults.
TEST(Schedule, OneCycleMatchesPyTorch) {
  const auto options = options_of("one_cycle", 0.4);
  const double ten[] = {
      0.016,           0.208,           0.4,    0.380193852805, 0.32469826158, 0.244504808775, 0.155496791225,
      0.0753033384201, 0.0198077471946, 1.6e-06};
  for (int step = 0; step < 10; ++step) EXPECT_NEAR(learning_rate(options, step, 10), ten[step], 1e-12) << step;
  const std::pair<int, double> hundred[] = {
      {0, 0.016},           {1, 0.0171255122264}, {15, 0.218394670448},   {29, 0.4},
      {30, 0.399798614114}, {64, 0.2000008},      {98, 0.00020298588619}, {99, 1.6e-06}};
  for (const auto& [step, expected] : hundred) {
    EXPECT_NEAR(learning_rate(options, step, 100), expected, 1e-12) << step;
  }
}

TEST(Schedule, OneCycleIsFiniteAtItsLimits) {
  auto options = options_of("one_cycle", 0.4);
  for (const double start : {0.0, 0.1, 0.5, 1.0}) {
    options.one_cycle_start = start;
    for (const int total : {1, 2, 3, 10}) {
      for (int step = 0; step < total + 2; ++step) {
        const double lr = learning_rate(options, step, total);
        EXPECT_TRUE(lr > 0 && lr <= 0.4) << start << " " << total << " " << step << " " << lr;
      }
    }
  }
}

// Made with PyTorch 1.13: CosineAnnealingLR(T_max=10, eta_min=0.01) from 0.1.
TEST(Schedule, CosineMatchesPyTorch) {
  auto options = options_of("cosine", 0.1);
  options.final_fraction = 0.1;
  const double expected[] = {0.1,   0.0977975432333, 0.0914057647469, 0.0814503363532, 0.0689057647469,
                             0.055, 0.0410942352531, 0.0285496636468, 0.0185942352531, 0.0122024567667,
                             0.01};
  for (int step = 0; step <= 10; ++step) EXPECT_NEAR(learning_rate(options, step, 10), expected[step], 1e-12) << step;
}

TEST(Schedule, PolynomialFallsToItsEnd) {
  auto options = options_of("polynomial", 2);
  options.power = 2;
  options.final_fraction = 0.5;
  EXPECT_DOUBLE_EQ(learning_rate(options, 0, 10), 2);
  EXPECT_DOUBLE_EQ(learning_rate(options, 5, 10), 2 * (0.5 + 0.5 * 0.25));
  EXPECT_DOUBLE_EQ(learning_rate(options, 10, 10), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 20, 10), 1);
}

TEST(Schedule, WarmsUpLinearlyThenSpansTheRest) {
  auto options = options_of("cosine", 1);
  options.warmup_steps = 4;
  options.warmup_start = 0.2;
  EXPECT_DOUBLE_EQ(learning_rate(options, 0, 24), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(options, 1, 24), 0.4);
  EXPECT_DOUBLE_EQ(learning_rate(options, 3, 24), 0.8);
  EXPECT_DOUBLE_EQ(learning_rate(options, 4, 24), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, 14, 24), 0.5) << "half of the 20 steps that are left";

  auto steps = options_of("step", 1);
  steps.warmup_steps = 4;
  steps.milestones = {8};
  EXPECT_DOUBLE_EQ(learning_rate(steps, 7, 24), 1);
  EXPECT_DOUBLE_EQ(learning_rate(steps, 8, 24), 0.1) << "milestones count from the start of the run";
}

TEST(Schedule, WarmUpLongerThanTheRun) {
  auto options = options_of("cosine", 1);
  options.warmup_steps = 100;
  for (int step = 0; step < 10; ++step) EXPECT_DOUBLE_EQ(learning_rate(options, step, 10), step / 100.0);
}

TEST(Schedule, ScalesWithTheGlobalBatch) {
  EXPECT_DOUBLE_EQ(scaled_learning_rate(0.1, "none", 1024, 256), 0.1);
  EXPECT_DOUBLE_EQ(scaled_learning_rate(0.1, "linear", 1024, 256), 0.4);
  EXPECT_DOUBLE_EQ(scaled_learning_rate(0.1, "sqrt", 1024, 256), 0.2);
  EXPECT_THROW(scaled_learning_rate(0.1, "linaer", 1024, 256), Error);
  EXPECT_THROW(scaled_learning_rate(0.1, "linear", 1024, 0), Error);
}

TEST(Schedule, RefusesBadOptions) {
  const auto refusal = [](auto change) -> std::string {
    ScheduleOptions options;
    change(options);
    try {
      validate(options);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::usage);
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(refusal([](auto&) {}), "no error");
  EXPECT_NE(refusal([](auto& o) { o.name = "cosin"; }).find("did you mean 'cosine'?"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.name = "step"; }).find("schedule.milestones"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.milestones = {1}; }).find("schedule.milestones"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.lr = -1; }).find("optimizer.lr"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.lr = std::nan(""); }).find("optimizer.lr"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.one_cycle_start = 1.5; }).find("one_cycle_start"), std::string::npos);
  EXPECT_NE(refusal([](auto& o) { o.warmup_steps = -1; }).find("warmup_steps"), std::string::npos);
}

}  // namespace
}  // namespace syncbn
