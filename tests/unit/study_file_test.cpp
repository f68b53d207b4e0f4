#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "study/plan/plan.hpp"
#include "study/study.hpp"
#include "syncbn/core/error.hpp"
#include "train/config/schema.hpp"
#include "train/config/value.hpp"

namespace syncbn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr const char* kBase = "base: quickstart\n";

Study parse(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_study(kBase + text, "my.yaml", overrides);
}

/// What is wrong with a study, found before anything is trained.
std::string refusal(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    resolve(parse(text, overrides));
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::usage);
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
    return e.what();
  }
  return "accepted";
}

std::vector<std::string> labels(const std::string& text) {
  std::vector<std::string> list;
  for (const Point& p : resolve(parse(text))) list.push_back(p.label);
  return list;
}

TEST(StudyFile, BlocksAreMultiplied) {
  EXPECT_EQ(labels(""), (std::vector<std::string>{"my"}));
  EXPECT_EQ(labels("vary: {grid: {norm.group: [1, all], optimizer.lr: [0.1, 0.2]}}"),
            (std::vector<std::string>{"norm.group=1, optimizer.lr=0.1", "norm.group=1, optimizer.lr=0.2",
                                      "norm.group=all, optimizer.lr=0.1", "norm.group=all, optimizer.lr=0.2"}));
  EXPECT_EQ(labels("vary: {zip: {workers: [2, 4], batch_per_worker: [8, 4]}}"),
            (std::vector<std::string>{"workers=2, batch_per_worker=8", "workers=4, batch_per_worker=4"}));
  EXPECT_EQ(labels("vary:\n"
                   "  - list: [{label: local, norm.group: 1}, {label: plain, norm.type: none, optimizer.lr: 0.01}]\n"
                   "  - grid: {batch_per_worker: [1, 2]}"),
            (std::vector<std::string>{"local, batch_per_worker=1", "local, batch_per_worker=2",
                                      "plain, batch_per_worker=1", "plain, batch_per_worker=2"}));
}

TEST(StudyFile, PointsAreResolved) {
  const auto points = resolve(parse(R"(
set: {norm: {eps: 1e-3}, train.epochs: 1}
vary:
  - zip: {workers: [2, 4], batch_per_worker: [8, 4]}
  - grid: {norm.group: [1, all]}
learning_rate: {rule: linear, reference_batch: 32}
seeds: [7, 9]
)",
                                    {"data.train_limit=64"}));
  ASSERT_EQ(points.size(), 4u);
  for (const Point& p : points) {
    EXPECT_EQ(p.config.norm.eps, 1e-3);
    EXPECT_EQ(p.config.seed, 7u);
    EXPECT_EQ(p.sizes.global_batch, 16);
    EXPECT_EQ(p.sizes.steps, 4);
    EXPECT_EQ(p.lr, 0.025);  // half of quickstart's 0.05
    EXPECT_GT(p.seconds, 0);
    EXPECT_GT(p.memory_bytes, p.config.workers * p.sizes.activation_bytes);
  }
  EXPECT_EQ(points[0].sizes.bn_span, 8);
  EXPECT_EQ(points[3].sizes.bn_span, 16);
}

TEST(StudyFile, EvaluationsAreEstimatedAsTrainingMakesThem) {
  const auto seconds = [](const std::string& set) {
    const std::string all = "train.epochs: 100, data.train_limit: 100, " + set;  // 7 batches an epoch
    return resolve(parse("set: {" + all + "}")).front().seconds;
  };
  const double training = seconds("data.test_limit: 1, train.eval_every: 0");
  const double test = seconds("train.eval_every: 0") - training;
  EXPECT_EQ(seconds("train.eval_every: epoch"), seconds("train.eval_every: 7"));
  EXPECT_NEAR(seconds("train.eval_every: epoch"), training + 100 * test, test);
  EXPECT_EQ(seconds("data.test_limit: 1000000"), seconds("data.test_limit: 0"));
}

TEST(StudyFile, AListOfWidthsIsAValue) {
  const auto points =
      resolve(parse("set: {model.name: mlp, model.layers: []}\nvary: {grid: {model.hidden: [[10], [20, 30]]}}"));
  ASSERT_EQ(points.size(), 2u);
  EXPECT_EQ(points[1].config.model.hidden, (std::vector<std::int64_t>{20, 30}));
  EXPECT_EQ(points[1].label, "model.hidden=[20, 30]");
}

TEST(StudyFile, EveryKeyOfTheHelpIsRead) {
  for (const KeyHelp& key : study_file_keys()) {
    if (key.key == "base" || key.key == "set") continue;
    const std::size_t dot = key.key.find('.');
    const std::string line = dot == std::string::npos
                                 ? key.key + ": {}"
                                 : key.key.substr(0, dot) + ": {" + key.key.substr(dot + 1) + ": {}}";
    EXPECT_THAT(refusal(line), AllOf(Not(IsEmpty()), Not(HasSubstr("unknown key")))) << line;  // {} is no value
  }
  EXPECT_THAT(refusal("learning_rate: {serch: [1, 2]}"), HasSubstr("did you mean 'search'?"));
  EXPECT_THAT(refusal("sedes: 3"), HasSubstr("did you mean 'seeds'?"));
}

TEST(StudyFile, MistakesAreNamedWithTheirPlace) {
  EXPECT_EQ(refusal("vary: {grid: {norm.grup: [1]}}"),
            "my.yaml:2: unknown key 'norm.grup'; did you mean 'norm.group'? (study my, trials 'norm.grup=1')");
  EXPECT_THAT(refusal("vary:\n  grid: {norm.group: [1,\n  3]}"),
              HasSubstr("my.yaml:4: norm.group: 3 does not divide workers = 8"));
  EXPECT_THAT(refusal("set: {norm.eps: many}"), HasSubstr("my.yaml:2: norm.eps: expected a number"));
  EXPECT_EQ(refusal("set: &s\n  norm: *s\n"), "my.yaml:3: not valid YAML: an alias inside of what it refers to");
  EXPECT_EQ(refusal("vary:"), "my.yaml:2: vary: is empty; give a grid, zip or list, or leave it out");
  EXPECT_EQ(refusal("vary: {grid: {}}"), "my.yaml:2: vary.grid: is empty");
  EXPECT_EQ(refusal("vary: {grid: {norm.group: []}}"),
            "my.yaml:2: norm.group: expected a list of values [a, b, ...], got an empty one");
  EXPECT_THAT(refusal("vary: {grid: {norm.group: 1}}"), HasSubstr("expected a list of values"));
  EXPECT_THAT(refusal("vary: {grid: {norm: {group: [1]}}}"),
              HasSubstr("norm: expected a list of values [a, b, ...], got more keys"));
  EXPECT_THAT(refusal("vary: {grid: {norm.group: [1, 1]}}"), HasSubstr("'1' stands there twice"));
  EXPECT_EQ(refusal("vary: {zip: {workers: [2, 4], batch_per_worker: [8]}}"),
            "my.yaml:2: vary.zip: 'batch_per_worker' has 1 values, 'workers' has 2; a zip takes one of each at a time");
  EXPECT_THAT(refusal("vary:\n  - grid: {norm.group: [1]}\n  - zip: {norm.group: [2]}"),
              HasSubstr("my.yaml:4: norm.group is varied already at my.yaml:3"));
  EXPECT_THAT(refusal("vary: {gird: {norm.group: [1]}}"), HasSubstr("did you mean 'grid'?"));
  EXPECT_THAT(refusal("vary: {grid: {seed: [1, 2]}}"), HasSubstr("a study has `seeds: N`"));
  EXPECT_THAT(refusal("vary: {grid: {threads: [1, 2]}}"), HasSubstr("never changes a result"));
  EXPECT_EQ(refusal("set: {checkpoint: {keep: 2}}"),
            "my.yaml:2: checkpoint.keep: a study chooses it for each trial; remove it");
  for (const char* own : {"output.dir=x", "output.tensorboard=false", "threads=3", "checkpoint.keep_best=true"}) {
    EXPECT_THAT(refusal("", {own}), HasSubstr("a study chooses it for each trial")) << own;
  }
  EXPECT_EQ(refusal("", {"timeout_s=3", "checkpoint.every=3", "probes.names=[norms]"}), "accepted");
  EXPECT_THAT(refusal("set: {train.eval_split: train}"), HasSubstr("no test error"));
  EXPECT_THAT(refusal("vary: {grid: {train.steps: [1, 2]}}", {"train.epochs=1"}),
              HasSubstr("train.steps is what the study varies"));
  EXPECT_THAT(refusal("set: {workers: auto}"), HasSubstr("depends on the machine"));
  EXPECT_THAT(refusal("set: {norm.group: node}"), HasSubstr("depends on the machine"));
  EXPECT_THAT(refusal("set: {reduction: native}"), HasSubstr("a study needs ordered"));
  EXPECT_THAT(refusal("seeds: 0"), HasSubstr("my.yaml:2: seeds: expected a number from 1 to 1000, or a list"));
  EXPECT_THAT(refusal("seeds: [1, 1]"), HasSubstr("stands there twice"));
  EXPECT_THAT(refusal("repeat: {until_interval_below: 1}"), HasSubstr("max_seeds"));
  EXPECT_THAT(refusal("repeat: {until_interval_below: 100, max_seeds: 4}"),
              HasSubstr("repeat.until_interval_below: expected above 0 and below 100, got '100'"));
  EXPECT_THAT(refusal("seeds: 5\nrepeat: {until_interval_below: 1, max_seeds: 3}"), HasSubstr("less than the 5 seeds"));
  EXPECT_THAT(refusal("learning_rate: {search: [1]}"), HasSubstr("at least two factors"));
  EXPECT_THAT(refusal("learning_rate: {search: [1, 1e9]}"), HasSubstr("expected a factor above 0 and below 1e6, got"));
  EXPECT_THAT(refusal("set: {data: {train_limit: 10, drop_last: true}}"), HasSubstr("more than the training images"));
  EXPECT_THAT(refusal("set: {model: {name: mlp, layers: []}, data.train_limit: 17}"),
              HasSubstr("with the 1 image of an epoch's last batch, a group of workers has one value per channel"));
  EXPECT_THAT(refusal("", {"norm.group"}), HasSubstr("expected KEY=VALUE"));
  EXPECT_THAT(refusal("vary: {grid: {norm.group: [1]}}", {"norm.group=all"}), HasSubstr("is what the study varies"));
  EXPECT_EQ(refusal("title: [a]"), "my.yaml:2: title: expected text");
  EXPECT_EQ(refusal("vary: {list: [{label: {a: b}, norm.group: 1}]}"), "my.yaml:2: vary.list.label: expected text");
  EXPECT_EQ(refusal("title: \"a\\nb\""), "my.yaml:2: title: expected one line without control characters");
  EXPECT_THAT(refusal("vary: {list: [{label: \"a\\nb\", norm.group: 1}]}"), HasSubstr("label: expected one line"));
  EXPECT_THAT(refusal("title: \"a\\e[31mb\""), HasSubstr("title: expected one line without control"));
  EXPECT_EQ(refusal("vary: {list: [{}, {norm.group: 1}]}"),
            "my.yaml:2: vary.list: an alternative without keys needs a label");
  EXPECT_THAT(refusal("vary: [{list: [{label: a, norm.group: 1}, {label: \"a, b\", norm.group: all}]},\n"
                      "       {list: [{label: \"b, c\", optimizer.lr: 1}, {label: c, optimizer.lr: 2}]}]"),
              HasSubstr("two points are called 'a, b, c'; give their alternatives other labels"));
  EXPECT_THAT(refusal("set: {optimizer.lr: 1e305}\nlearning_rate: {search: [1, 999999]}"),
              HasSubstr("optimizer.lr: 1e+305 is too large to be multiplied"));
  EXPECT_EQ(refusal("seeds: 2", {"seeds=[1, 1]"}), "command line: seeds: 1 stands there twice");
  EXPECT_EQ(refusal("", {"seeds=[1, x]"}), "command line: seeds: expected an integer >= 0, got 'x'");
  EXPECT_THROW(parse("title: lat\xe9"), Error);
  EXPECT_THROW(parse("", {"model.weights=lat\xe9"}), Error);
  EXPECT_THROW(parse_study("vary: {grid: {norm.group: [1]}}", "my.yaml", {}), Error);  // no base
  EXPECT_THROW(parse_study("seed: 1", "my.yaml", {}), Error);
  EXPECT_THROW(resolve(parse_study("base: quickstrat", "my.yaml", {})), Error);
}

TEST(StudyFile, AKeyMustBeReadByOneOfThePoints) {
  EXPECT_EQ(refusal("vary: {grid: {schedule.gamma: [0.1, 0.5], norm.groups: [4, 8]}}"),
            "my.yaml:2: schedule.gamma: only read with schedule.name = step, but schedule.name = one_cycle; remove it, "
            "or change schedule.name");
  EXPECT_THAT(refusal("set: {norm.groups: 8}"), HasSubstr("my.yaml:2: norm.groups: only read with norm.type = group"));
  EXPECT_THAT(refusal("", {"norm.groups=8"}), HasSubstr("command line: norm.groups: only read with"));
  for (const char* override_text : {"norm.groups=8", "norm.eps=1e-4", "norm.group=2"}) {
    EXPECT_EQ(refusal("vary: {grid: {norm.type: [batch, group]}}", {override_text}), "accepted") << override_text;
  }
  // Points that differ in nothing that is read are one training.
  const Study study = parse("vary: {grid: {optimizer.name: [sgd, adam], optimizer.beta1: [0.8, 0.95]}}");
  const auto points = resolve(study);
  const auto trials = Planner(study, points).trials([](const Trial&) { return std::nullopt; });
  ASSERT_EQ(trials.size(), 4u);
  EXPECT_EQ(trials[0].hash, trials[1].hash);
  EXPECT_NE(trials[2].hash, trials[3].hash);
}

TEST(StudyFile, NothingIsSaidTwiceInTwoWays) {
  EXPECT_EQ(refusal("set: {train: {epochs: 1},\n  train.epochs: 2}"),
            "my.yaml:3: train.epochs is set already at my.yaml:2");
  EXPECT_THAT(refusal("set: {optimizer.lr_scaling: none}\nlearning_rate: {rule: linear}"),
              HasSubstr("my.yaml:3: optimizer.lr_scaling is set already at my.yaml:2"));
  EXPECT_EQ(refusal("set: {norm: {group: 1}}\nvary: {grid: {norm.group: [1, all]}}"),
            "my.yaml:3: norm.group is varied, but norm.group is set for all trials at my.yaml:2; remove one");
  EXPECT_THAT(refusal("set: {train.epochs: 1}\nvary: {grid: {train.steps: [1, 2]}}"),
              HasSubstr("train.steps is varied, but train.epochs is set for all trials"));
  EXPECT_THAT(refusal("set: {train.epochs: 1}\nvary: {list: [{train.epochs: 1}, {train.epochs: 2}]}"),
              HasSubstr("train.epochs is varied, but train.epochs is set for all trials"));
  parse("set: {train.epochs: 1}\nvary: {list: [{norm.group: 1}, {norm.group: all, train.epochs: 2}]}");
  EXPECT_EQ(refusal("learning_rate: {search: [0.5, 5e-1]}"), "my.yaml:2: learning_rate.search: 0.5 stands there twice");
  EXPECT_EQ(refusal("vary: {grid: {optimizer.lr: [0.1, 0.2]}}\nlearning_rate: {search: [0.5, 1]}"),
            "my.yaml:2: optimizer.lr is varied and searched for; remove one");
  parse("vary: {zip: {optimizer.name: [sgd, adam], optimizer.lr: [0.1, 0.001]}}\nlearning_rate: {search: [0.5, 1]}");
  EXPECT_EQ(refusal("vary: {grid: {optimizer.lr: [0.1, 1e-1]}}"), "my.yaml:2: optimizer.lr: '1e-1' stands there twice");
}

TEST(StudyFile, OfKeysThatReplaceEachOtherATrialHasOne) {
  const std::string both = "train.epochs is varied, but train.steps is, too, at my.yaml:3; remove one";
  EXPECT_EQ(refusal("vary: {grid: {\ntrain.steps: [1, 2],\ntrain.epochs: [1, 2]}}"), "my.yaml:4: " + both);
  EXPECT_EQ(refusal("vary: {zip: {\ntrain.steps: [1, 2],\ntrain.epochs: [1, 2]}}"), "my.yaml:4: " + both);
  EXPECT_EQ(refusal("vary: {list: [{norm.group: 1}, {\ntrain.steps: 1,\ntrain.epochs: 1}]}"), "my.yaml:4: " + both);
  EXPECT_EQ(refusal("vary:\n  - list: [{train.steps: 1}, {norm.group: 1}]\n  - grid: {train.epochs: [1, 2]}"),
            "my.yaml:4: " + both);
  EXPECT_EQ(refusal("vary: {list: [{train.steps: 1}, {train.epochs: 1}]}"), "accepted");
}

TEST(StudyFile, AlternativesThatDifferInSeveralKeysAreNoAxis) {
  const auto named = [](const std::string& list) { return parse("vary: {list: " + list + "}").dimensions[0].named; };
  EXPECT_FALSE(named("[{batch_per_worker: 2}, {batch_per_worker: 4}]"));
  EXPECT_TRUE(named("[{batch_per_worker: 2}, {batch_per_worker: 4, optimizer.nesterov: true}]"));
  EXPECT_TRUE(named("[{label: a, batch_per_worker: 2}, {label: b, batch_per_worker: 4}]"));
}

TEST(StudyFile, AZipOfWordsIsNoAxis) {
  const auto named = [](const std::string& zip) { return parse("vary: {zip: " + zip + "}").dimensions[0].named; };
  EXPECT_TRUE(named("{norm.type: [batch, group, none], optimizer.lr: [0.1, 0.05, 0.01]}"));
  EXPECT_TRUE(named("{optimizer.lr: [0.1, 0.05], optimizer.nesterov: [true, false]}"));
  EXPECT_FALSE(named("{workers: [2, 4], batch_per_worker: [8, 4]}"));
  EXPECT_FALSE(named("{workers: [2, 4], norm.group: [2, all]}"));
  EXPECT_FALSE(named("{norm.type: [batch, group]}"));
}

TEST(StudyFile, ASearchHasASeedOfItsOwn) {
  const auto search_seed = [](const std::string& seeds) {
    return parse("learning_rate: {search: [1, 2]}\nseeds: " + seeds).lr_seed;
  };
  EXPECT_EQ(search_seed("3"), 0u);
  EXPECT_EQ(search_seed("[0, 1]"), 2u);
  EXPECT_EQ(search_seed("[1, 0, 3]"), 2u);
  EXPECT_EQ(refusal("learning_rate:\n  search: [1, 2]\n  search_seed: 2\nseeds: 2"),
            "my.yaml:4: learning_rate.search_seed: 2 is one of the seeds; give another, or leave it out");
  EXPECT_THAT(refusal("learning_rate: {search: [1, 2], search_seed: 5}", {"seeds=[5]"}), HasSubstr("one of the seeds"));
}

TEST(StudyFile, ShippedStudiesResolve) {
  EXPECT_FALSE(shipped_studies().empty());
  for (const ShippedConfig& shipped : shipped_studies()) {
    const Study study = load_study(shipped.name, {});
    EXPECT_NE(study.title, study.name) << shipped.name;
    EXPECT_NO_THROW(resolve(study)) << shipped.name;
  }
  for (const char* name : {"quick", "quick.yaml", "study/quick", "study/quick.yaml"}) {
    EXPECT_EQ(load_study(name, {"seeds=5"}).seeds.size(), 5u) << name;
  }
  EXPECT_THROW(load_study("quikc", {}), Error);
}

// ---- which trials ----

std::vector<std::string> names(const std::vector<Trial>& trials) {
  std::vector<std::string> list;
  for (const Trial& t : trials) {
    list.push_back(std::to_string(t.point) + (t.search ? " search " : " ") + std::to_string(t.seed) + " x" +
                   std::to_string(t.lr_factor).substr(0, 3));
  }
  return list;
}

TEST(StudyPlan, WhatAStudySetsIsNotForItsFile) {
  for (const auto& key : detail::config_schema()) {
    Config free, own = run_config({}, "folder", 3);
    const bool set = detail::value_text(key.rule, key.field(own)) != detail::value_text(key.rule, key.field(free));
    EXPECT_EQ(set, std::count(study_keys().begin(), study_keys().end(), key.name) == 1) << key.name;
  }
}

TEST(StudyPlan, HashesNameExperiments) {
  const Study study = parse("vary: {grid: {norm.group: [1, all]}}\nseeds: 2");
  const auto points = resolve(study);
  Planner planner(study, points);
  const auto trials = planner.trials([](const Trial&) { return std::nullopt; });
  ASSERT_EQ(trials.size(), 4u);
  std::set<std::string> hashes;
  for (const Trial& t : trials) hashes.insert(t.hash);
  EXPECT_EQ(hashes.size(), 4u);
  // What does not change a result does not change the hash; what does, does.
  const auto hash_with = [&](const std::string& override_text) {
    Study other = study;
    other.overrides = {override_text};
    const auto resolved = resolve(other);
    return Planner(other, resolved).trials([](const Trial&) { return std::nullopt; }).front().hash;
  };
  EXPECT_EQ(hash_with("timeout_s=7"), trials.front().hash);
  EXPECT_NE(hash_with("train.epochs=7"), trials.front().hash);
}

TEST(StudyPlan, ASearchComesFirstAndTheLowestErrorWins) {
  const Study study = parse("learning_rate: {search: [0.5, 1, 2], search_seed: 5}\nseeds: 2");
  const auto points = resolve(study);
  Planner planner(study, points);
  const std::vector<std::string> search = {"0 search 5 x0.5", "0 search 5 x1.0", "0 search 5 x2.0"};
  EXPECT_EQ(names(planner.trials([](const Trial&) { return std::nullopt; })), search);
  // As long as one is missing, nothing is decided.
  EXPECT_EQ(names(planner.trials([](const Trial& t) -> std::optional<double> {
              return t.lr_factor == 2 ? std::nullopt : std::optional(10.0);
            })),
            search);
  const auto all = planner.trials([](const Trial& t) -> std::optional<double> {
    if (!t.search) return std::nullopt;
    return t.lr_factor == 1 ? 10.0 : t.lr_factor == 2 ? 20.0 : std::nan("");  // the smallest one diverged
  });
  EXPECT_EQ(names(all).back(), "0 2 x1.0");
  EXPECT_EQ(all.size(), 5u);
  EXPECT_EQ(config_of(points[0], all[2]).lr, 0.1);
  const auto none = planner.trials([](const Trial&) { return std::optional(std::nan("")); });
  EXPECT_EQ(names(none).back(), "0 2 x0.5");
  const Study descending = parse("learning_rate: {search: [2, 0.5, 1], search_seed: 5}\nseeds: 2");
  Planner other(descending, points);
  EXPECT_EQ(names(other.trials([](const Trial&) { return std::optional(std::nan("")); })).back(), "0 2 x0.5");
}

TEST(StudyPlan, SeedsAreAddedUntilTheIntervalIsNarrow) {
  const Study study = parse("seeds: 2\nrepeat: {until_interval_below: 2, max_seeds: 5}");
  const auto points = resolve(study);
  Planner planner(study, points);
  const auto count = [&](const std::vector<double>& errors) {  // of seeds 1, 2, ...; those beyond have not ended
    return planner
        .trials([&](const Trial& t) -> std::optional<double> {
          return t.seed > errors.size() ? std::nullopt : std::optional(errors[t.seed - 1]);
        })
        .size();
  };
  EXPECT_EQ(count({}), 2u);
  EXPECT_EQ(count({10}), 2u);
  EXPECT_EQ(count({10, 10.1}), 3u);  // two may agree by chance
  EXPECT_EQ(count({10, 10.1, 10}), 3u);
  EXPECT_EQ(count({10, 11}), 3u);            // half is 6.4
  EXPECT_EQ(count({10, 11, 10.5}), 3u);      // 1.24
  EXPECT_EQ(count({10, 14, 9, 15, 8}), 5u);  // wide, but no more than 5
  EXPECT_EQ(count({10, std::nan("")}), 2u);  // a point that diverges is not tried for ever
  const Study last = parse("seeds: [18446744073709551615]\nrepeat: {until_interval_below: 1, max_seeds: 3}");
  Planner around(last, points);
  std::vector<std::uint64_t> seeds;
  for (const Trial& t : around.trials([](const Trial& t) { return t.seed == 0 ? 10 : 20; })) seeds.push_back(t.seed);
  EXPECT_EQ(seeds, (std::vector<std::uint64_t>{18446744073709551615u, 0, 1}));
  // The seed of a search is none of them.
  const Study searched = parse(
      "seeds: 2\nlearning_rate: {search: [1, 2], search_seed: 3}\nrepeat: {until_interval_below: 1, max_seeds: 4}");
  Planner beside(searched, points);
  seeds.clear();
  for (const Trial& t : beside.trials([](const Trial& t) { return t.seed == 1 ? 10 : 20; })) {
    if (!t.search) seeds.push_back(t.seed);
  }
  EXPECT_EQ(seeds, (std::vector<std::uint64_t>{1, 2, 4, 5}));
}

}  // namespace
}  // namespace syncbn
