// What a study has left behind, its files separated by NUL bytes: finished trials, tables, report.

#include "fuzz/target.hpp"
#include "study/report/report.hpp"
#include "study/results.hpp"
#include "support/temp_dir.hpp"
#include "unit/study_example.hpp"

namespace syncbn::fuzz {
namespace {

const std::vector<std::string> kFiles = {"study.json", "outcome.json", "metrics.jsonl", "environment.json",
                                         "summary.json"};

StudyDirectory& study() {
  static StudyDirectory directory(folder() + "/study");
  return directory;
}

}  // namespace

std::vector<std::string> seeds() {
  Results results = example({{10, 14, 20}, {10, 10, 11}});
  for (TrialRow& row : results.rows) row.folder = "trials/one";
  results.rows.back().search = true;
  study().write_plan(results);
  study().write_outcome("trials/one", *results.rows.front().outcome);
  const std::string plan = slurp(study().path() + "/study.json");
  const std::string outcome = slurp(study().path() + "/trials/one/outcome.json");
  const std::string metrics = R"({"kind":"eval","step":5,"epoch":1,"accuracy":0.5})"
                              "\n"
                              R"({"kind":"train","step":5,"epoch":1,"loss":0.7,"accuracy":0.6})"
                              "\n{torn";
  const std::string environment = R"({"system":"Linux","cores":4,"versions":{"compiler":"GCC"}})";
  const std::string summary = R"({"steps":5,"test_accuracy":0.5,"seconds":2,"versions":{"syncbn":"1"}})";
  return {joined({plan, outcome, metrics, environment, summary})};
}

void read(std::string_view input) {
  const std::vector<std::string> texts = parts(input, kFiles.size());
  std::filesystem::create_directories(study().path() + "/trials/one");
  for (std::size_t i = 0; i < kFiles.size(); ++i) file((i == 0 ? "study/" : "study/trials/one/") + kFiles[i], texts[i]);
  study().finished();
  const Results results = read_results(study().path());
  to_csv(results);
  to_jsonl(results);
  summary_text(results.dir);
  write_report({results.dir}, folder() + "/report.html");
  study().read_summary("trials/one");
}

}  // namespace syncbn::fuzz
