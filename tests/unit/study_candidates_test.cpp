// What must not count: candidates of a search for the learning rate, trials without a result, single results.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "study/report/answer.hpp"
#include "study/report/charts.hpp"
#include "study/study.hpp"
#include "support/temp_dir.hpp"

namespace syncbn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Of seeds 1, 2, ...
SeriesPoint point(double x, const std::vector<double>& errors) {
  SeriesPoint p{static_cast<int>(x), x, {}, 0};
  for (std::size_t i = 0; i < errors.size(); ++i) p.errors[i + 1] = errors[i];
  return p;
}

ErrorChart chart(const std::vector<Series>& series) {
  return {"Samples per worker", "images a worker", false, series, {}};
}

TEST(StudyAnswer, SaysWhereFewImagesAreBetter) {
  const ErrorChart one =
      chart({{"", {point(1, {5, 5.2, 5.4}), point(2, {10, 10.4, 10.2}), point(8, {10, 10.4, 10.2})}}});
  EXPECT_THAT(answer(one), ElementsAre(HasSubstr("he error at 1 image a worker is lower than at 8 images a worker, by "
                                                 "5.0 ± 0.5 points.")));
}

TEST(StudyAnswer, ASingleResultIsComparedWithNothing) {
  const ErrorChart two = chart({{"a", {point(1, {10, 10.2, 10.4}), point(8, {10.1, 10.1, 10.5})}},
                                {"b", {point(1, {30}), point(8, {5, 5.4, 5.2})}}});
  EXPECT_THAT(
      answer(two),
      ElementsAre(
          HasSubstr("A: no difference from 8 images a worker can be shown at 1 image a worker (0.0 ± 0.3 points)."),
          HasSubstr("At 8 images a worker: less error than a: b by 5.0")));
}

TrialRow trial(int place, double error) {
  TrialRow row;
  row.point = place;
  row.values = {place};
  row.settings = {{"batch_per_worker", std::to_string(place + 1)}};
  row.samples_per_worker = row.global_batch = row.bn_span = place + 1;
  row.outcome = Outcome{};
  row.outcome->metrics["test_accuracy"] = 1 - error / 100;
  return row;
}

TEST(StudyCharts, ShowNoCandidatesOfASearchAndNothingThatDiverged) {
  Results r;
  r.dimensions = {{{"batch_per_worker"}, false, {"1", "2"}}};
  r.rows = {trial(0, 90), trial(0, 10), trial(0, 80), trial(1, 20)};
  r.rows[0].search = true;
  r.rows[2].outcome->status = Outcome::Status::diverged;
  for (const ErrorChart& c : {error_charts(r).at(0), points_chart(r)}) {
    const SeriesPoint& first = c.series.at(0).points.at(0);
    ASSERT_EQ(first.errors.size(), 1u);
    EXPECT_NEAR(first.errors.begin()->second, 10, 1e-9);
    EXPECT_EQ(first.without, 1);
  }
}

TEST(StudyResults, CellsOfSeveralLinesAreQuoted) {
  Results r;
  r.rows = {trial(0, 10)};
  r.rows[0].outcome->message = "two\nlines";
  EXPECT_THAT(to_csv(r), HasSubstr("\"two\nlines\""));
}

TEST(StudyResults, AFailedTrialKeepsItsCheckpoints) {
  const TempDir dir;
  const StudyDirectory store(dir.path());
  for (const auto status : {Outcome::Status::failed, Outcome::Status::diverged, Outcome::Status::done}) {
    const std::string folder = std::string("trials/") + name_of(status);
    std::filesystem::create_directories(dir / folder + "/checkpoints");
    Outcome outcome;
    outcome.status = status;
    store.write_outcome(folder, outcome);
    EXPECT_EQ(std::filesystem::exists(dir / folder + "/checkpoints"), status == Outcome::Status::failed);
  }
}

TEST(StudyResults, TheTableNamesTheLearningRateOfEachTrial) {
  const TempDir dir;
  StudyRequest request;
  request.study = parse_study(
      "base: quickstart\nset: {workers: 2, train.steps: 1, data.train_limit: 20, data.test_limit: 10}\n"
      "learning_rate: {search: [0.5, 1]}\nseeds: 1\n",
      "search.yaml", {"optimizer.lr=0.25", "norm.group=all"});
  request.dir = dir / "study";
  Teams teams;
  const StudyResult result = run_study(request, teams);
  EXPECT_EQ(result.done, 3);
  std::vector<double> rates;
  for (const TrialRow& row : read_results(request.dir).rows) {
    EXPECT_EQ(row.lr, 0.25 * row.lr_factor);
    EXPECT_THAT(row.experiment, HasSubstr(row.lr == 0.125 ? "lr: 0.125" : "lr: 0.25"));
    if (row.search) rates.push_back(row.lr);
  }
  EXPECT_THAT(rates, ElementsAre(0.125, 0.25));
}

}  // namespace
}  // namespace syncbn
