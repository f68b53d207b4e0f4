// Charts of a study, and what is said about them in words.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "study/report/answer.hpp"
#include "study/report/charts.hpp"
#include "unit/study_example.hpp"

namespace syncbn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(StudyCharts, OneForEveryAxis) {
  const auto charts = error_charts(example({{10, 14, 20}, {10, 10, 11}}));
  ASSERT_EQ(charts.size(), 2u);  // the global batch goes with the samples per worker
  EXPECT_EQ(charts[0].title, "Samples per worker");
  EXPECT_EQ(charts[1].title, "Normalization batch");
  ASSERT_EQ(charts[0].series.size(), 2u);
  EXPECT_EQ(charts[0].series[0].name, "local BN");
  EXPECT_EQ(charts[0].series[0].points.front().x, 1);
  EXPECT_NEAR(charts[0].series[0].points.front().interval().mean, 20, 1e-9);
  EXPECT_EQ(charts[1].series[1].points.back().x, 64);
}

TEST(StudyAnswer, SaysWhatTheIntervalsCarry) {
  const auto lines = answer(example({{10, 14, 20}, {10.3, 10.4, 10.5}}));
  EXPECT_THAT(lines,
              ElementsAre("Local BN: at 2 images a worker and below the error is higher than at 8 images a worker, by "
                          "4.0 ± 0.9 points there and 10.0 ± 0.9 points at 1 image a worker.",
                          "Synchronized BN: no difference from 8 images a worker can be shown at 1 image a worker "
                          "(+0.2 ± 0.9 points).",
                          "At 1 image a worker: less error than local BN: synchronized BN by 9.5 ± 1.0 points.",
                          "At 8 images a worker: no difference from local BN can be shown: synchronized BN (+0.3 ± 1.0 "
                          "points)."));
}

TEST(StudyAnswer, APlaceBetweenIsPickedWithAWiderInterval) {
  // 6.2053 instead of 4.3027: two places are compared with the right end.
  EXPECT_EQ(
      answer(example({{10, 14, 10.1}, {10, 10, 11}})).front(),
      "Local BN: the error at 2 images a worker is higher than at 8 images a worker, by 4.0 ± 1.2 points (wider, as "
      "picked from 2 places); no difference from 8 images a worker can be shown at 1 image a worker (+0.1 ± 0.9 "
      "points).");
  EXPECT_EQ(answer(example({{10, 11, 10.1}, {10, 10, 11}})).front(),
            "Local BN: no difference from 8 images a worker can be shown at 1 image a worker (+0.1 ± 0.9 points).");
}

TEST(StudyAnswer, KeysKeepTheirSpelling) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.dimensions[0].labels = {"norm.group=1", "norm.group=all"};
  EXPECT_THAT(answer(r).front(), StartsWith("norm.group=1: at 2 images"));
}

TEST(StudyAnswer, SaysNothingTheIntervalsDoNotCarry) {
  for (const std::string& line : answer(example({{10, 14, 20}, {10, 10, 11}}, 20))) {
    EXPECT_THAT(line, HasSubstr("no difference from")) << line;
  }
  Results one_seed = example({{10, 14, 20}, {10, 10, 11}});
  std::erase_if(one_seed.rows, [](const TrialRow& r) { return r.seed > 1; });
  EXPECT_THAT(answer(one_seed), ElementsAre(HasSubstr("nothing can be said")));
  for (TrialRow& row : one_seed.rows) row.outcome->status = Outcome::Status::diverged;
  EXPECT_THAT(answer(one_seed), ElementsAre("No trial has a result.", StartsWith("6 of 6 trials diverged")));
  one_seed.rows.back().outcome.reset();  // has not ended
  EXPECT_THAT(answer(one_seed).front(), HasSubstr("nothing can be said"));
}

TEST(StudyAnswer, AStudyOfOneAxisNeedsNoNames) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.dimensions.erase(r.dimensions.begin());
  std::erase_if(r.rows, [](const TrialRow& row) { return row.values[0] != 0; });
  for (TrialRow& row : r.rows) row.values = {row.values[1]};
  EXPECT_THAT(answer(r), ElementsAre("At 2 images a worker and below the error is higher than at 8 images a worker, by "
                                     "4.0 ± 0.9 points there and 10.0 ± 0.9 points at 1 image a worker."));
}

TEST(StudyAnswer, VariantsWithoutAnAxisAreComparedWithTheFirst) {
  Results r = example({{10, 14, 20}, {10.2, 10.1, 11}});
  r.dimensions = {{{"norm.group", "batch_per_worker"}, true, {"a", "b", "c", "d", "e", "f"}}};
  for (TrialRow& row : r.rows) {
    row.values = {row.point};
    row.label = r.dimensions[0].labels[row.point];
  }
  EXPECT_TRUE(error_charts(r).empty());
  EXPECT_THAT(answer(r), ElementsAre("More error than a: b by 4.0 ± 0.9 points, c by 10.0 ± 0.9 points, f by 1.0 ± 0.5 "
                                     "points; no difference from a can be shown: d (+0.2 ± 1.0 points), e (+0.1 ± 0.5 "
                                     "points)."));
  for (TrialRow& row : r.rows) {  // seeds that are all alike
    row.outcome->metrics["test_accuracy"] = row.point == 3 ? 0.5 : 0.9;
  }
  EXPECT_THAT(answer(r).front(), HasSubstr("d (+40.0 points, without an interval)"));
}

TEST(StudyAnswer, SaysHowManyVariantsItLeavesOut) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.dimensions = {{{"norm.group"}, true, {}}};
  std::vector<TrialRow> rows;
  for (int variant = 0; variant < 15; ++variant) {
    r.dimensions[0].labels.push_back("v" + std::to_string(variant));
    for (int seed = 1; seed <= 3; ++seed) {
      rows.push_back(r.rows[3 * (variant % 6) + seed - 1]);
      rows.back().point = variant;
      rows.back().values = {variant};
      rows.back().label = r.dimensions[0].labels.back();
    }
  }
  r.rows = rows;
  ASSERT_EQ(answer(r).size(), 1u);
  EXPECT_THAT(answer(r).front(), HasSubstr("v12 "));
  EXPECT_THAT(answer(r).front(), ::testing::EndsWith(". 2 more variants are left to the charts and the table."));
}

TEST(StudyCharts, VariantsAreDrawnBesideEachOther) {
  const ErrorChart chart = variants_chart(example({{10, 14, 20}, {10, 10, 11}}));
  ASSERT_EQ(chart.series.size(), 1u);
  EXPECT_EQ(chart.categories.size(), 6u);
  EXPECT_EQ(chart.categories[1], "local BN, batch_per_worker=2");
  EXPECT_EQ(chart.series[0].points[1].x, 1);
  EXPECT_NEAR(chart.series[0].points[1].interval().mean, 14, 1e-9);
}

/// The example with an activation in the place of the batch size.
Results example_of_words() {
  Results r = example({{10, 14, 20}, {10.2, 10, 22}});
  const std::vector<std::string> names = {"relu", "tanh", "sigmoid"};
  r.dimensions[1] = {{"model.activation"}, false, {}};
  for (const std::string& name : names) r.dimensions[1].labels.push_back("model.activation=" + name);
  for (TrialRow& row : r.rows) {
    const auto word = static_cast<std::size_t>(row.values[1]);
    row.settings[1] = {"model.activation", names[word]};
    row.label = r.dimensions[0].labels[row.values[0]] + ", " + r.dimensions[1].labels[word];
    row.samples_per_worker = row.workers = row.global_batch = 8;
  }
  return r;
}

TEST(StudyCharts, WordsMakeAnAxisWhereThereAreNoNumbers) {
  const auto charts = error_charts(example_of_words());
  ASSERT_EQ(charts.size(), 1u);
  EXPECT_EQ(charts[0].title, "model.activation");
  EXPECT_THAT(charts[0].categories, ElementsAre("relu", "tanh", "sigmoid"));
  ASSERT_EQ(charts[0].series.size(), 2u);
  EXPECT_EQ(charts[0].series[1].name, "synchronized BN");
  EXPECT_EQ(charts[0].series[1].points[2].x, 2);
  EXPECT_NEAR(charts[0].series[1].points[2].interval().mean, 22, 1e-9);
}

TEST(StudyAnswer, ComparesVariantsWordByWord) {
  EXPECT_THAT(
      answer(example_of_words()),
      ElementsAre("At model.activation relu: no difference from local BN can be shown: synchronized BN (+0.2 ± 1.0 "
                  "points).",
                  "At model.activation tanh: less error than local BN: synchronized BN by 4.0 ± 1.0 points.",
                  "At model.activation sigmoid: more error than local BN: synchronized BN by 2.0 ± 1.0 points."));
}

/// Three variants that differ in `key`, which moves nothing that is an axis of its own.
Results example_of_one_key(const std::string& key, const std::vector<std::string>& texts) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.dimensions = {{{key}, false, {}}};
  for (const std::string& text : texts) r.dimensions[0].labels.push_back(key + "=" + text);
  std::erase_if(r.rows, [](const TrialRow& row) { return row.values[0] != 0; });
  for (TrialRow& row : r.rows) {
    const auto at = static_cast<std::size_t>(row.point);
    row.values = {row.point};
    row.settings = {{key, texts[at]}};
    row.label = r.dimensions[0].labels[at];
    row.samples_per_worker = row.global_batch = row.bn_span = 8;
  }
  return r;
}

TEST(StudyCharts, AnAxisHasAPlaceOfItsOwnForEachPoint) {
  EXPECT_EQ(error_charts(example_of_one_key("norm.momentum", {"0.001", "0.01", "0.1"})).size(), 1u);
  for (const std::string last : {"cumulative", "1e-2"}) {
    const Results r = example_of_one_key("norm.momentum", {"0.001", "0.01", last});
    EXPECT_TRUE(error_charts(r).empty()) << last;
    EXPECT_THAT(answer(r), ElementsAre("More error than norm.momentum=0.001: norm.momentum=0.01 by 4.0 ± 0.9 points, "
                                       "norm.momentum=" +
                                       last + " by 10.0 ± 0.9 points."));
  }
}

TEST(StudyCharts, AZeroThatMeansAllOrOffIsNoNumber) {
  EXPECT_EQ(error_charts(example_of_one_key("data.crop_padding", {"0", "2", "4"})).size(), 1u);
  for (const char* key : {"data.train_limit", "data.test_limit", "data.image_size", "optimizer.clip_norm",
                          "train.steps", "train.eval_every", "norm.momentum_reference_batch"}) {
    EXPECT_EQ(error_charts(example_of_one_key(key, {"32", "64", "128"})).size(), 1u) << key;
    const Results r = example_of_one_key(key, {"0", "64", "128"});
    EXPECT_TRUE(error_charts(r).empty()) << key;
    EXPECT_THAT(answer(r), ElementsAre(StartsWith(std::string("More error than ") + key + "=0: "))) << key;
  }
}

TEST(StudyAnswer, AWordBesideANumberIsNotHidden) {
  const Dimension zip =
      parse_study("base: quickstart\nvary: {zip: {norm.type: [batch, group, none], optimizer.lr: [0.1, 0.05, 0.01]}}",
                  "my.yaml", {})
          .dimensions[0];
  Results r = example_of_one_key("norm.type", {"batch", "group", "none"});
  r.dimensions[0] = {zip.keys, zip.named, {}};
  for (const auto& value : zip.values) r.dimensions[0].labels.push_back(value.label);
  const std::vector<double> rates = {0.1, 0.05, 0.01};
  for (TrialRow& row : r.rows) {
    const auto at = static_cast<std::size_t>(row.point);
    row.label = r.dimensions[0].labels[at];
    row.lr = rates[at];
  }
  EXPECT_THAT(answer(r), ElementsAre("More error than norm.type=batch, optimizer.lr=0.1: norm.type=group, "
                                     "optimizer.lr=0.05 by 4.0 ± 0.9 points, norm.type=none, optimizer.lr=0.01 by 10.0 "
                                     "± 0.9 points."));
}

TEST(StudyCharts, TheFirstOneHasAllPoints) {
  // Only one of two series has normalization batches; all have a global batch.
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.dimensions[0] = {{"norm.type"}, true, {"batch", "none"}};
  r.dimensions[1].keys = {"workers"};
  for (TrialRow& row : r.rows) {
    row.samples_per_worker = 8;
    row.bn_span = row.values[0] == 0 ? row.global_batch : 0;
  }
  const auto charts = error_charts(r);
  ASSERT_EQ(charts.size(), 2u);
  EXPECT_EQ(charts[0].title, "Global batch");
  EXPECT_EQ(charts[1].title, "Normalization batch");
  EXPECT_EQ(charts[1].series.size(), 1u);
  EXPECT_EQ(answer(r).size(), 4u);
  for (TrialRow& row : r.rows) row.global_batch = 8;  // now none has them all
  EXPECT_TRUE(error_charts(r).empty());
  EXPECT_THAT(answer(r), ElementsAre(HasSubstr("synchronized BN, batch_per_worker=2")));
}

TEST(StudyAnswer, NamesTrialsWithoutAResult) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.rows[8].outcome->status = Outcome::Status::diverged;
  EXPECT_EQ(answer(r).back(), "1 of 18 trials diverged and count in no mean: local BN, batch_per_worker=1.");
}

/// The example after a search in which each point chose `chosen`; candidates above `good` diverged.
Results searched(double chosen, double good) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  for (TrialRow& row : r.rows) row.lr_factor = chosen;
  for (const double factor : {0.5, 1.0, 2.0}) {
    TrialRow candidate = r.rows.front();
    candidate.hash = "candidate" + std::to_string(factor);
    candidate.search = true;
    candidate.seed = 0;
    candidate.lr_factor = factor;
    if (factor > good) candidate.outcome->status = Outcome::Status::diverged;
    r.rows.insert(r.rows.begin(), candidate);
  }
  return r;
}

TEST(StudyAnswer, CandidatesOfASearchAreCountedButNoResults) {
  const Results r = searched(1, 1);
  EXPECT_EQ(answer(r).back(),
            "1 of 21 trials diverged, 1 of them of the search, and count in no mean: local BN, batch_per_worker=8.");
  EXPECT_EQ(error_charts(r)[0].series[0].points.back().interval().n, 3);
}

TEST(StudyAnswer, SaysWhereASearchShouldHaveLookedFurther) {
  const std::string who = "Local BN, batch_per_worker=8: ";
  EXPECT_EQ(answer(searched(2, 2)).back(),
            who + "the best learning rate tried is the largest; widen learning_rate.search.");
  EXPECT_EQ(answer(searched(0.5, 2)).back(),
            who + "the best learning rate tried is the smallest; widen learning_rate.search.");
  EXPECT_EQ(answer(searched(0.5, 0)).back(),
            who +
                "no learning rate tried gave a result, and the smallest was taken; add smaller ones to "
                "learning_rate.search.");
  EXPECT_THAT(answer(searched(1, 2)).back(), StartsWith("At 8 images a worker"));
  Results open = searched(2, 2);
  open.rows.front().outcome.reset();
  EXPECT_THAT(answer(open).back(), StartsWith("At 8 images a worker"));
}

TEST(StudyAnswer, NotesSayHowItIsToBeRead) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  EXPECT_THAT(notes(r), ElementsAre(HasSubstr("seed by seed"), HasSubstr("one in twenty")));
  r.interval_below = 0.2;
  EXPECT_THAT(notes(r).back(), HasSubstr("below 0.2 points"));
  EXPECT_THAT(notes(searched(1, 2)).back(), HasSubstr("chosen by their error on the test images"));
}

TEST(StudyAnswer, ADifferenceIsAsPreciseAsItsInterval) {
  Results r = example({{10, 10, 10.01}, {10, 10, 10}}, 0.02);
  EXPECT_THAT(answer(r).front(), HasSubstr("(+0.01 ± 0.09 points)"));
}

}  // namespace
}  // namespace syncbn
