#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "study/report/answer.hpp"
#include "study/report/curves.hpp"
#include "study/report/report.hpp"
#include "study/results.hpp"
#include "study/running/live_table.hpp"
#include "study/running/placement.hpp"
#include "study/statistics.hpp"
#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"
#include "unit/study_example.hpp"

namespace syncbn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// ---- statistics: against published tables and R's t.test() ----

TEST(StudyStatistics, StudentsQuantiles) {
  EXPECT_NEAR(student_t_quantile(0.975, 1), 12.706204736, 1e-8);
  EXPECT_NEAR(student_t_quantile(0.975, 2), 4.302652730, 1e-8);
  EXPECT_NEAR(student_t_quantile(0.975, 4), 2.776445105, 1e-8);
  EXPECT_NEAR(student_t_quantile(0.975, 30), 2.042272456, 1e-8);
  EXPECT_NEAR(student_t_quantile(0.975, 1e7), 1.959964, 1e-5);
  EXPECT_NEAR(student_t_quantile(0.025, 2), -4.302652730, 1e-8);
}

/// Results of the seeds `first`, `first` + 1, ...
BySeed seeds(std::uint64_t first, const std::vector<double>& values) {
  BySeed results;
  for (const double v : values) results[first++] = v;
  return results;
}

TEST(StudyStatistics, Intervals) {
  const std::vector<double> a = {10, 12, 11}, b = {15, 19, 16, 18}, one = {3};
  const Interval m = mean_interval(a);
  EXPECT_DOUBLE_EQ(m.mean, 11);
  EXPECT_NEAR(m.half, 4.302652730 / std::sqrt(3.0), 1e-8);
  EXPECT_FALSE(mean_interval(one).known());
  EXPECT_TRUE(std::isnan(mean_interval({}).mean));
  // Variances of the means 1/3 and 5/6: df = (7/6)^2 / ((1/3)^2 / 2 + (5/6)^2 / 3) = 4.7419
  const Interval d = difference_interval(seeds(11, b), seeds(1, a));
  EXPECT_DOUBLE_EQ(d.mean, 6);
  EXPECT_NEAR(d.half, student_t_quantile(0.975, 4.741935484) * std::sqrt(7.0 / 6), 1e-6);
  EXPECT_TRUE(d.excludes_zero());
  EXPECT_EQ(difference_interval(seeds(3, b), seeds(1, a)).half, d.half);  // one common seed makes no pair
  EXPECT_FALSE(difference_interval(seeds(1, b), seeds(1, one)).excludes_zero());
}

TEST(StudyStatistics, CommonSeedsMakePairs) {
  const std::vector<double> a = {10, 12, 11}, b = {15, 19, 16, 18};
  // Seeds 1, 2 and 3 are common: differences 5, 7 and 5, their mean 17/3, its variance 4/9.
  const Interval d = difference_interval(seeds(1, b), seeds(1, a));
  EXPECT_NEAR(d.mean, 17.0 / 3, 1e-12);
  EXPECT_NEAR(d.half, 4.302652730 * 2 / 3, 1e-8);
  EXPECT_EQ(d.n, 3);
  // Two: 15 - 12 and 19 - 11, mean 5.5, variance 12.5 / 2.
  const Interval two = difference_interval(seeds(2, b), seeds(1, a));
  EXPECT_NEAR(two.mean, 5.5, 1e-12);
  EXPECT_NEAR(two.half, 12.706204736 * 2.5, 1e-7);
  // The most telling of five: 1 % for each.
  EXPECT_NEAR(difference_interval(seeds(1, b), seeds(1, a), 5).half, 9.924843201 * 2 / 3, 1e-8);
}

TEST(StudyStatistics, ValuesThatAreAlikeSayNothingAboutTheirSpread) {
  const std::vector<double> same = {2, 2}, other = {5.1, 5.1}, wide = {1, 3};
  EXPECT_FALSE(mean_interval(same).known());
  EXPECT_FALSE(difference_interval(seeds(1, other), seeds(1, same)).known());  // but for rounding, both are 3.1
  EXPECT_FALSE(difference_interval(seeds(1, other), seeds(3, same)).known());
  EXPECT_FALSE(difference_interval(seeds(1, wide), seeds(3, same)).known());
  EXPECT_TRUE(difference_interval(seeds(1, wide), seeds(1, same)).known());
}

TEST(StudyStatistics, IntervalsHoldWhatTheyPromise) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal(5, 2);
  int held = 0;
  constexpr int kTries = 4000;
  for (int i = 0; i < kTries; ++i) {
    std::vector<double> values(3);
    for (double& v : values) v = normal(random);
    const Interval m = mean_interval(values);
    held += std::abs(m.mean - 5) <= m.half;
  }
  EXPECT_NEAR(static_cast<double>(held) / kTries, 0.95, 0.012);
}

// ---- cores ----

TEST(StudyPlacement, CoresAreTakenAndGivenBack) {
  Cores cores(4, 2);
  EXPECT_EQ(cores.total(), 8);
  const auto wide = cores.take(6, 16);
  ASSERT_TRUE(wide);
  EXPECT_THAT(wide->ranks, ElementsAre(0, 1, 2));
  EXPECT_EQ(wide->cores(), 6);
  const auto two = cores.take(4, 16);  // one rank is left
  ASSERT_TRUE(two);
  EXPECT_THAT(two->ranks, ElementsAre(3));
  EXPECT_EQ(two->threads, 2);
  EXPECT_FALSE(cores.take(1, 16));
  cores.give_back(*wide);
  const auto one_worker = cores.take(8, 1);
  ASSERT_TRUE(one_worker);
  EXPECT_EQ(one_worker->cores(), 1);
  cores.give_back(*one_worker);
  const auto three_workers = cores.take(8, 3);  // all of two ranks rather than half of the workers waiting
  ASSERT_TRUE(three_workers);
  EXPECT_EQ(three_workers->ranks.size(), 2u);
  EXPECT_EQ(fair_share(8, 3), 2);
  EXPECT_EQ(fair_share(4, 100), 1);
  EXPECT_EQ(fair_share(4, 0), 4);
}

// ---- results ----

TEST(StudyResults, TrialsOfOneHashCountOnce) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.rows[1].hash = r.rows[0].hash;
  r.rows[2].outcome.reset();
  r.rows[3].outcome->status = Outcome::Status::diverged;
  r.rows[4].outcome->status = Outcome::Status::failed;
  const Tally all = tally(r);
  EXPECT_EQ(all.trials, 17);
  EXPECT_EQ(all.ended, 16);
  EXPECT_EQ(all.diverged, 1);
  EXPECT_EQ(all.failed, 1);
  EXPECT_EQ(all.done(), 14);
}

TEST(StudyResults, TablesHoldEverythingInOrder) {
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.rows[1].outcome->message = "it said \"no\", twice";
  r.rows[2].outcome.reset();  // has not ended
  const std::string csv = to_csv(r);
  EXPECT_THAT(csv, HasSubstr("trial,status,point,label,seed,lr_factor,search,norm.group,batch_per_worker,workers,"));
  EXPECT_THAT(csv, HasSubstr(",bn_span,lr,steps,"));
  EXPECT_THAT(csv, HasSubstr("hash0,done,0,\"local BN, batch_per_worker=8\",1,1,0,1,8,8,8,64,batch,1,8,"));
  EXPECT_THAT(csv, HasSubstr("\"it said \"\"no\"\", twice\""));
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 18);
  EXPECT_EQ(csv.find("hash2,"), std::string::npos);
  const std::string lines = to_jsonl(r);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 17);
  const auto first = nlohmann::json::parse(lines.substr(0, lines.find('\n')));
  EXPECT_EQ(first.at("status"), "done");
  EXPECT_EQ(first.at("settings").at("norm.group"), "1");
  EXPECT_TRUE(first.contains("experiment"));
}

TEST(StudyResults, AReportIsWrittenFromTheFolder) {
  const TempDir dir;
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.interval_below = 0.5;
  {
    const StudyDirectory store(dir.path());
    store.write_plan(r);
    for (const TrialRow& row : r.rows) store.write_outcome(row.folder, *row.outcome);
    EXPECT_THROW(StudyDirectory(dir.path()), Error);  // locked
  }
  spit(dir / "trials/hash0/metrics.jsonl",
       "{\"kind\":\"eval\",\"step\":5,\"epoch\":1,\"accuracy\":0.5}\n{\"kind\":\"train\",\"step\":5,\"epoch\":1,"
       "\"loss\":0.7,\"accuracy\":0.6}\n{torn");
  const Results back = read_results(dir.path());
  EXPECT_EQ(to_csv(back), to_csv(r));
  const auto curves = read_curves(back);
  ASSERT_FALSE(curves.empty());
  write_report({dir.path()}, dir / "report.html");
  const std::string page = slurp(dir / "report.html");
  EXPECT_THAT(page, HasSubstr("Chart.js v"));
  EXPECT_THAT(page, HasSubstr("<h1>An example</h1>\n<p>" + answer(back).at(0) + "</p>"));  // without JavaScript
  EXPECT_EQ(page.find("http://"), page.find("http://www.w3.org"));                         // nothing to fetch
  EXPECT_EQ(page.find("quickstart </script>"), std::string::npos);                         // text cannot end the script
  EXPECT_THAT(summary_text(dir.path()), HasSubstr("20.00 ± 0.50"));
  EXPECT_THAT(summary_text(dir.path()), HasSubstr("one in twenty looks like one.\nVariants got more seeds until"));
  EXPECT_THROW(write_report({dir / "trials"}, dir / "no.html"), Error);
}

// Each trial is compared with itself: a spread between seeds does not hide what evaluation statistics do.
TEST(StudyResults, TheReportComparesEvaluationStatisticsTrialByTrial) {
  const TempDir dir;
  Results r = example({{10, 14, 20}, {10, 10, 11}}, 3);
  for (TrialRow& row : r.rows) {
    if (row.point != 2) continue;
    row.outcome->metrics["test_accuracy_precise"] =
        row.outcome->metrics["test_accuracy"] + 0.05 + 1e-4 * static_cast<double>(row.seed);
  }
  const StudyDirectory store(dir.path());
  store.write_plan(r);
  for (const TrialRow& row : r.rows) store.write_outcome(row.folder, *row.outcome);
  write_report({dir.path()}, dir / "report.html");
  const std::string page = slurp(dir / "report.html");
  const std::size_t gap = page.find("\"gaps\":{\"precise\":{\"mean\":");
  ASSERT_NE(gap, std::string::npos);
  EXPECT_NEAR(std::stod(page.substr(page.find("mean", gap) + 6)), -5.02, 1e-9);
  EXPECT_NEAR(std::stod(page.substr(page.find("half", gap) + 6)), 0.01 * 4.302652730 / std::sqrt(3.0), 1e-9);
  EXPECT_THAT(page, HasSubstr("\"gaps\":{}"));
}

// What the page's script draws of it.
TEST(StudyResults, TheReportHasAChartOfNamedAlternativesAndTheFactorsOfASearch) {
  const TempDir dir;
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  r.dimensions = {{{"norm.group"}, true, {"a", "b", "c", "d", "e", "f"}}};
  for (TrialRow& row : r.rows) {
    row.values = {row.point};
    row.lr_factor = 0.5;
    if (row.point == 4 || row.seed == 2) row.outcome->status = Outcome::Status::diverged;
  }
  r.rows.insert(r.rows.begin(), r.rows.front());
  r.rows.front().search = true;
  r.rows.front().hash = "candidate";
  r.rows.front().folder = "trials/candidate";
  r.rows.back().seed = 9007199254740993;
  const StudyDirectory store(dir.path());
  store.write_plan(r);
  for (const TrialRow& row : r.rows) store.write_outcome(row.folder, *row.outcome);
  write_report({dir.path()}, dir / "report.html");
  const std::string page = slurp(dir / "report.html");
  EXPECT_THAT(page, HasSubstr("\"charts\":[],\"variants\":{\"title\":\"Variant\""));
  EXPECT_THAT(page, HasSubstr("\"x\":4.0,\"mean\":null,\"half\":null,\"n\":0,\"without\":3}"));
  EXPECT_THAT(page, HasSubstr(",\"lr_factor\":0.5,"));
  EXPECT_THAT(page, HasSubstr("\"seed\":\"9007199254740993\""));  // as a number, JavaScript would round it
  EXPECT_THAT(page, HasSubstr("\"trials_planned\":19,\"trials_ended\":19,\"trials_of_search\":1,"));
}

TEST(StudyResults, AForeignFolderIsRefused) {
  const TempDir dir;
  spit(dir / "letter.txt", "hello");
  EXPECT_THROW(StudyDirectory(dir.path()), Error);
}

TEST(StudyResults, AFolderWithALockIsNoStudyYet) {
  const TempDir dir;
  std::filesystem::create_directories(dir / "started/trials/a");
  spit(dir / "started/.lock", "");
  spit(dir / "started/study.json.tmp", "{");
  EXPECT_NO_THROW(StudyDirectory(dir / "started"));
  spit(dir / "started/trials.csv", "");  // as if study.json had been taken away
  EXPECT_NO_THROW(StudyDirectory(dir / "started"));
  std::filesystem::create_directory(dir / "run");
  spit(dir / "run/.lock", "");
  spit(dir / "run/config.yaml", "seed: 1\n");
  EXPECT_THROW(StudyDirectory(dir / "run"), Error);
  EXPECT_FALSE(std::filesystem::exists(dir / "run/trials"));
}

TEST(StudyResults, WhatIsDamagedIsNamedWithItsRemedy) {
  const TempDir dir;
  const auto message = [&] {
    try {
      read_results(dir.path());
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::bad_data);
      return std::string(e.what());
    }
    return std::string("read");
  };
  for (const char* text : {"{\"schema\":1,", "[]", "{}"}) {
    spit(dir / "study.json", text);
    EXPECT_THAT(message(), StartsWith(dir / "study.json: damaged (")) << text;
    EXPECT_THAT(message(), HasSubstr("); start the study again, finished trials stay")) << text;
  }
  const Results r = example({{10, 14, 20}, {10, 10, 11}});
  const StudyDirectory store(dir.path());
  store.write_plan(r);
  for (const char* text : {"{torn", "3", R"({"schema":1,"status":"dnoe","message":"","metrics":{},"machine":{}})"}) {
    std::filesystem::create_directories(dir / "trials/hash0");
    spit(dir / "trials/hash0/outcome.json", text);
    EXPECT_EQ(message(), dir / "trials/hash0/outcome.json: damaged; remove it, and start the study again");
  }
  for (const char* text : {"{torn", "3"}) {
    spit(dir / "trials/hash0/summary.json", text);
    EXPECT_THROW(store.read_summary("trials/hash0"), Error);
  }
}

TEST(StudyResults, TrialsOfAnotherStudyAreRefused) {
  const TempDir dir;
  const StudyDirectory store(dir.path());
  Results r = example({{10, 14, 20}, {10, 10, 11}});
  store.write_plan(r);
  const std::string plan = slurp(dir / "study.json");
  const auto message = [&](const std::string& from, const std::string& to) {
    std::string text = plan;
    text.replace(text.find(from), from.size(), to);
    spit(dir / "study.json", text);
    try {
      read_results(dir.path());
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("read");
  };
  const std::string values = "\"values\": [\n    0,\n    0\n   ]";
  EXPECT_EQ(message("", ""), "read");
  for (const char* other : {"[0]", "[0, 3]", "[-1, 0]", "[0, 0, 0]", "[]"})
    EXPECT_THAT(message(values, std::string("\"values\": ") + other), HasSubstr("a trial that is not of this study"))
        << other;
  EXPECT_THAT(message(values, "\"values\": [0, 1e300]"), HasSubstr("study.json: damaged ("));
  EXPECT_THAT(message("\"point\": 0", "\"point\": 1e300"), HasSubstr("study.json: damaged ("));
  r.rows[0].steps = r.rows[0].messages = std::int64_t{1} << 62;
  store.write_plan(r);
  EXPECT_THROW(read_results(dir.path()), Error);
}

TEST(StudyResults, DamagedFilesOfARunAreLeftOutOfTheReport) {
  const TempDir dir;
  const StudyDirectory store(dir.path());
  const Results r = example({{10, 14, 20}, {10, 10, 11}});
  store.write_plan(r);
  for (const TrialRow& row : r.rows) store.write_outcome(row.folder, *row.outcome);
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  for (const auto& [environment, summary] : std::vector<std::pair<std::string, std::string>>{
           {R"({"system":"Linux","versions":[1]})", R"({"versions":{"a":"1"}})"},
           {R"({"system":"Linux","versions":{"a":"1"}})", R"({"versions":[1]})"},
           {R"({"system":"Linux","cores":)" + deep + "}", R"({"versions":)" + deep + "}"}}) {
    spit(dir / "trials/hash0/environment.json", environment);
    spit(dir / "trials/hash0/summary.json", summary);
    write_report({dir.path()}, dir / "report.html");
    EXPECT_THAT(slurp(dir / "report.html"), HasSubstr("\"machine\":{\"system\":\"Linux\""));
  }
}

// ---- live table ----

TEST(StudyLiveTable, FitsTheTerminal) {
  LiveState state;
  state.ended = 3;
  state.total = 40;
  state.elapsed_s = 61;
  for (int i = 0; i < 30; ++i) state.running.push_back({"local BN, batch ± " + std::to_string(i), 0.5, 1, 2, 0.3, 5});
  const auto lines = table_lines(state, 60, 10);
  EXPECT_EQ(lines.size(), 10u);
  EXPECT_THAT(lines.front(), HasSubstr("3 of 40 trials ended, 30 running"));
  EXPECT_THAT(lines.back(), HasSubstr("and 22 more"));
  for (const std::string& line : lines) EXPECT_LE(line.size(), 62u);  // the sign is two bytes, one column
  EXPECT_THAT(lines[1], HasSubstr(" 50%"));
}

TEST(StudyLiveTable, ALongLabelIsCutRatherThanWhatIsBehindIt) {
  LiveState state;
  state.running.push_back({std::string(60, 'x'), 0.5, 1, 2, 0.3, 5});
  state.running.push_back({std::string(60, 'y')});
  auto lines = table_lines(state, 79, 10);
  EXPECT_THAT(lines[1], ::testing::EndsWith("xxxxxxxxxx  50%  epoch 1.0  loss 2.000  accuracy 30.00%  0:05  1 core"));
  EXPECT_EQ(lines[1].size(), 79u);
  EXPECT_THAT(lines[2], HasSubstr("yy   0%  epoch 0.0  0:00  1 core"));  // no loss before an update
  lines = table_lines(state, 120, 10);
  EXPECT_THAT(lines[1], HasSubstr("xx [=====     ]  50%  epoch"));
  EXPECT_EQ(lines[1].size(), 120u);
}

}  // namespace
}  // namespace syncbn
