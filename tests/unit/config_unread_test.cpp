// Keys that nothing in an experiment reads, and bounds that the optimizers and schedules share with the schema.

#include <gtest/gtest.h>

#include "unit/config_texts.hpp"

namespace syncbn {
namespace {

using test::parse;
using test::refusal;

TEST(ConfigUnread, RefusesWhatNothingReads) {
  EXPECT_EQ(refusal("optimizer:\n  beta1: 0.8\n"),
            "a.yaml:2: optimizer.beta1: only read with optimizer.name = adam, adamw, lamb, but optimizer.name = sgd; "
            "remove it, or change optimizer.name");
  EXPECT_EQ(refusal("", {"schedule.warmup_start=0.1"}),
            "command line: schedule.warmup_start: only read with schedule.warmup_steps > 0 or schedule.warmup_epochs > "
            "0, but schedule.warmup_steps = 0 and schedule.warmup_epochs = 0; remove it, or change "
            "schedule.warmup_steps");
  for (const char* unread :
       {"optimizer.trust_coefficient=0.1", "optimizer.eps=1e-3", "optimizer.decay_norm_and_bias=true",
        "schedule.gamma=0.5", "schedule.milestones=[10]", "schedule.power=2", "schedule.one_cycle_div=9",
        "norm.renorm_r_max=2", "norm.groups=4", "norm.group_channels=4", "model.hidden=[3]", "model.init_std=1",
        "model.activation=tanh", "train.precise_samples=9", "data.path=x", "optimizer.lr_reference_batch=8",
        "probes.every=2", "probes.units=2", "probes.layers=[fc]"}) {
    EXPECT_NE(refusal("", {unread}), "") << unread;
  }
  for (const char* norm : {"none", "weight", "group"}) {
    EXPECT_NE(refusal("", {std::string("norm.type=") + norm, "norm.group=4"}), "") << norm;
  }
  EXPECT_EQ(refusal("norm: {groups: 4}", {"norm.type=group"}), "");
  EXPECT_EQ(refusal("", {"optimizer.decay_norm_and_bias=true", "optimizer.name=lamb"}), "");
  EXPECT_EQ(refusal("", {"train.precise_samples=9", "train.eval_statistics=[batch, precise]"}), "");
  Config c;
  c.schedule.gamma = 0.5;
  EXPECT_THROW(check_config(c), Error);
}

TEST(ConfigUnread, AKeyIsReadWithOneThatIsReadItself) {
  EXPECT_NE(refusal("", {"norm.type=none", "train.eval_statistics=[batch]"}), "");
  EXPECT_NE(refusal("", {"norm.track_running_stats=false", "norm.momentum=0.5"}), "");
  EXPECT_EQ(
      refusal("norm: {type: none, momentum: 0.5}")
          .find("a.yaml:1: norm.momentum: only read with norm.type = batch, renorm, whitening, but norm.type = none"),
      0u);
  EXPECT_EQ(refusal("norm: {momentum: 0.5}", {"norm.track_running_stats=false"}), "");
  EXPECT_EQ(refusal("", {"probes.names=[shift]", "probes.layers=[fc]", "probes.every=2"}), "");
  EXPECT_NE(refusal("", {"probes.names=[shift]", "probes.units=2"}), "");
}

TEST(ConfigUnread, WhatAnOverrideLeavesUnreadIsForgotten) {
  const std::string file =
      "optimizer: {name: lars, trust_coefficient: 0.1, momentum: 0.5}\n"
      "schedule: {name: step, milestones: [0.5]}\n";
  const Config c = parse(file, {"optimizer.name=sgd", "schedule.name=cosine"});
  EXPECT_EQ(to_yaml(c), to_yaml(parse("", {"optimizer.momentum=0.5", "schedule.name=cosine"})));
  EXPECT_EQ(to_yaml(parse(to_yaml(c))), to_yaml(c));
  EXPECT_NE(refusal(file, {"optimizer.name=sgd", "optimizer.trust_coefficient=0.2"}), "");
  EXPECT_EQ(load_config("quickstart", {"model.name=resnet8"}).model.layers.size(), 0u);
  // Whoever asks for them gets the names of the others.
  std::vector<std::string> unread;
  const Config lenient = parse_config("norm: {groups: 4}\n" + file, "a.yaml", {"optimizer.name=adam"}, {}, &unread);
  EXPECT_EQ(unread, (std::vector<std::string>{"norm.groups"}));
  EXPECT_EQ(lenient.norm.groups, Config{}.norm.groups);
}

TEST(ConfigRanges, OptimizerAndScheduleAcceptWhatTheSchemaAccepts) {
  for (const char* keys : {"optimizer: {name: adam, eps: 1, beta1: 0, beta2: 0.9999, weight_decay: 1e7}",
                           "optimizer: {name: lars, eps: 0, trust_coefficient: 1e7}",
                           "schedule: {name: step, milestones: [0.5], gamma: 1}",
                           "schedule: {name: one_cycle, one_cycle_start: 0, one_cycle_div: 1, one_cycle_final_div: 1}",
                           "schedule: {name: one_cycle, one_cycle_start: 1}",
                           "schedule: {name: polynomial, final_fraction: 1, warmup_steps: 1e9, warmup_start: 1}"}) {
    const Config c = parse(keys);
    EXPECT_NO_THROW(validate(c.optimizer)) << keys;
    EXPECT_NO_THROW(validate(c.schedule)) << keys;
  }
  OptimizerOptions optimizer;
  optimizer.eps = -1;
  EXPECT_THROW(validate(optimizer), Error);
  EXPECT_EQ(refusal("optimizer: {name: adam, eps: -1}"), "a.yaml:1: optimizer.eps: expected a number >= 0, got '-1'");
  ScheduleOptions schedule;
  schedule.gamma = 2;
  EXPECT_THROW(validate(schedule), Error);
  EXPECT_EQ(refusal("schedule: {name: step, milestones: [0.5], gamma: 2}"),
            "a.yaml:1: schedule.gamma: expected a number > 0 and <= 1, got '2'");
}

}  // namespace
}  // namespace syncbn
