#include "study/report/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "core/text.hpp"
#include "study/report/answer.hpp"
#include "study/report/charts.hpp"
#include "study/report/curves.hpp"
#include "study/results.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn {

/// Page, style, script and chart library by file name; generated from src/study/report.
const std::map<std::string, std::string>& report_files();

namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFurtherAccuracy = "test_accuracy_";  // of a summary, before the kind of statistics

/// JSON has no NaN: null stands for it.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}
Json numbers(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double v : values) list.push_back(number(std::round(v * 1e4) / 1e4));
  return list;
}

/// What the trials of one point come to.
struct PointSummary {
  const TrialRow* row = nullptr;  ///< its first trial
  std::vector<double> errors;
  int trials = 0, without = 0;
  double core_seconds = 0;  ///< of one trial, mean
  /// By each further kind of evaluation statistics: error of the same weights minus that by the first, one per trial.
  std::map<std::string, std::vector<double>> gaps;
};

std::vector<PointSummary> summarize(const Results& results) {
  std::map<int, PointSummary> points;
  for (const TrialRow& row : results.rows) {
    if (row.search) continue;
    PointSummary& p = points[row.point];
    if (p.row == nullptr) p.row = &row;
    ++p.trials;
    if (!row.outcome) continue;
    if (row.outcome->status != Outcome::Status::done) {
      ++p.without;
      continue;
    }
    const auto machine = [&](const char* key) {
      const auto found = row.outcome->machine.find(key);
      return found == row.outcome->machine.end() ? 1.0 : found->second;
    };
    p.errors.push_back(row.outcome->error());
    p.core_seconds += machine("seconds") * machine("ranks") * machine("threads");
    for (const auto& [key, value] : row.outcome->metrics) {
      if (key.starts_with(kFurtherAccuracy)) {
        p.gaps[key.substr(kFurtherAccuracy.size())].push_back(100 * (1 - value) - row.outcome->error());
      }
    }
  }
  std::vector<PointSummary> list;
  for (auto& [index, p] : points) {
    const auto n = static_cast<double>(std::max<std::size_t>(1, p.errors.size()));
    p.core_seconds /= n;
    list.push_back(std::move(p));
  }
  return list;
}

Json chart_json(const ErrorChart& chart) {
  Json series = Json::array();
  for (const Series& s : chart.series) {
    Json points = Json::array();
    for (const SeriesPoint& p : s.points) {
      const Interval i = p.interval();
      points.push_back({{"point", p.point},
                        {"x", p.x},
                        {"mean", number(i.mean)},
                        {"half", number(i.half)},
                        {"n", i.n},
                        {"without", p.without}});
    }
    series.push_back({{"name", s.name}, {"points", points}});
  }
  return {{"title", chart.title},
          {"unit", chart.unit},
          {"unit_first", chart.unit_first},
          {"categories", chart.categories},
          {"series", series}};
}

Json points_json(const std::vector<PointSummary>& points) {
  Json list = Json::array();
  for (const PointSummary& p : points) {
    const Interval i = mean_interval(p.errors);
    const TrialRow& r = *p.row;
    Json gaps = Json::object();
    for (const auto& [name, values] : p.gaps) {
      const Interval gap = mean_interval(values);
      gaps[name] = {{"mean", number(gap.mean)}, {"half", number(gap.half)}};
    }
    list.push_back({{"point", r.point},
                    {"label", r.label},
                    {"n", i.n},
                    {"trials", p.trials},
                    {"without", p.without},
                    {"mean", number(i.mean)},
                    {"half", number(i.half)},
                    {"norm", r.norm},
                    {"workers", r.workers},
                    {"samples_per_worker", r.samples_per_worker},
                    {"global_batch", r.global_batch},
                    {"bn_span", r.bn_span},
                    {"lr", r.lr},
                    {"lr_factor", r.lr_factor},
                    {"updates", r.steps},
                    {"core_seconds", p.core_seconds},
                    {"messages", r.messages * r.steps},
                    {"bytes", r.bytes * r.steps},
                    {"gaps", gaps}});
  }
  return list;
}

Json trials_json(const Results& results) {
  Json list = Json::array();
  for (const TrialRow& r : results.rows) {
    Json t{{"trial", r.hash}, {"label", r.label}, {"seed", std::to_string(r.seed)}, {"lr", r.lr}, {"search", r.search}};
    t["status"] = r.outcome ? name_of(r.outcome->status) : "not ended";
    t["error"] = r.outcome ? number(r.outcome->error()) : Json(nullptr);
    t["message"] = r.outcome ? r.outcome->message : "";
    const auto seconds = r.outcome ? r.outcome->machine.find("seconds") : std::map<std::string, double>::iterator{};
    t["seconds"] = r.outcome && seconds != r.outcome->machine.end() ? number(seconds->second) : Json(nullptr);
    list.push_back(std::move(t));
  }
  return list;
}

Json curves_json(const std::vector<Curve>& curves) {
  Json list = Json::array();
  for (const Curve& c : curves) {
    list.push_back({{"point", c.point},
                    {"epochs", numbers(c.epochs)},
                    {"errors", numbers(c.errors)},
                    {"halves", numbers(c.halves)},
                    {"train_epochs", numbers(c.train_epochs)},
                    {"losses", numbers(c.losses)},
                    {"train_error", number(c.train_error)}});
  }
  return list;
}

/// A file of a run; discarded where it is damaged. What is nested deeper than such files are is left out: to write it
/// would take a stack as deep.
Json read_json(const std::string& path) {
  constexpr int kDeepest = 8;
  const auto shallow = [](int depth, Json::parse_event_t, const Json&) { return depth < kDeepest; };
  return path_exists(path) ? Json::parse(read_text(path), shallow, false) : Json();
}

/// Processor, compiler, libraries: as recorded by the first trial that has ended.
Json machine_json(const Results& results) {
  for (const TrialRow& r : results.rows) {
    const std::string folder = results.dir + "/" + r.folder;
    const Json all = r.outcome ? read_json(folder + "/environment.json") : Json();
    if (!all.is_object()) continue;
    Json machine;
    for (const char* key : {"system", "processor", "cores", "versions"}) {
      if (all.contains(key)) machine[key] = all.at(key);
    }
    const Json summary = read_json(folder + "/summary.json");
    const bool more = summary.is_object() && summary.contains("versions") && summary.at("versions").is_object();
    if (more && (!machine.contains("versions") || machine.at("versions").is_object()))
      machine["versions"].update(summary.at("versions"));
    return machine;
  }
  return Json::object();
}

Json study_json(const Results& results) {
  Json charts = Json::array();
  for (const ErrorChart& chart : error_charts(results)) charts.push_back(chart_json(chart));
  const ErrorChart variants = variants_chart(results);
  const Tally all = tally(results);
  Tally search;
  for (const TrialRow& row : results.rows) {
    if (row.search) search.add(row.hash, nullptr);
  }
  return {{"name", results.name},
          {"title", results.title},
          {"version", results.version},
          {"command", shell_line(results.command)},
          {"text", results.text},
          {"trials_planned", all.trials},
          {"trials_ended", all.ended},
          {"trials_of_search", search.trials},
          {"answer", answer(results)},
          {"notes", notes(results)},
          {"charts", charts},
          {"variants", charts.empty() && variants.categories.size() > 1 ? chart_json(variants) : Json(nullptr)},
          {"points", points_json(summarize(results))},
          {"curves", curves_json(read_curves(results))},
          {"trials", trials_json(results)},
          {"experiment", results.rows.empty() ? "" : results.rows.front().experiment},
          {"machine", machine_json(results)}};
}

void replace(std::string& text, const std::string& mark, const std::string& with) {
  const std::size_t at = text.find(mark);
  if (at == std::string::npos) throw std::logic_error("the page has no " + mark);
  text.replace(at, mark.size(), with);
}

/// Text for an element.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  }
  return out;
}

/// JSON that may stand inside a <script> element.
std::string embedded(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace), out;
  for (const char c : text) out += c == '<' ? std::string("\\u003c") : std::string(1, c);
  return out;
}

}  // namespace

void write_report(const std::vector<std::string>& dirs, const std::string& file) {
  Json studies = Json::array();
  std::string title, sentences;
  for (const std::string& dir : dirs) {
    const Results results = read_results(dir);
    title += (title.empty() ? "" : "; ") + results.title;
    sentences += "<h1>" + escaped(results.title) + "</h1>\n";
    for (const std::string& line : answer(results)) sentences += "<p>" + escaped(line) + "</p>\n";
    studies.push_back(study_json(results));
  }
  const auto& files = report_files();
  std::string page = files.at("page.html");
  // What comes from outside goes in last, so that nothing in it is taken for a mark.
  replace(page, "/*page.css*/", files.at("page.css"));
  replace(page, "/*charts.js*/", files.at("charts.js"));
  replace(page, "/*page.js*/", files.at("page.js"));
  replace(page, "/*chart.min.js*/", files.at("chart.min.js"));
  replace(page, "/*data*/", embedded(studies));
  replace(page, "<!--answer-->", sentences);
  replace(page, "<!--title-->", escaped(title));
  write_text(file, page);
}

std::string summary_text(const std::string& dir) {
  const Results results = read_results(dir);
  const std::vector<PointSummary> points = summarize(results);
  std::size_t width = 5;
  for (const PointSummary& p : points) width = std::max(width, p.row->label.size());
  std::string text = fmt::format("{}\n\n{:<{}}  {:>16}  {:>6}  {:>12}\n", results.title, "", width, "test error, %",
                                 "trials", "core seconds");
  for (const PointSummary& p : points) {
    const Interval i = mean_interval(p.errors);
    std::string error = "-";
    if (i.n > 0) error = fmt::format("{:.2f}", i.mean) + (i.known() ? fmt::format(" ± {:.2f}", i.half) : "");
    const std::size_t columns = error.size() - (i.known() ? 1 : 0);  // the sign is two bytes long
    text += fmt::format("{:<{}}  {}{}  {:>6}  {:>12.1f}{}\n", p.row->label, width,
                        std::string(columns < 16 ? 16 - columns : 0, ' '), error, i.n, p.core_seconds,
                        p.without > 0 ? fmt::format("  {} without a result", p.without) : "");
  }
  text += "\n";
  for (const std::string& line : answer(results)) text += line + "\n";
  text += "\n";
  for (const std::string& line : notes(results)) text += line + "\n";
  text += fmt::format(
      "tables  {0}/trials.csv, {0}/trials.jsonl\n"
      "curves  {1}\n",
      results.dir, shell_line({"tensorboard", "--logdir", results.dir + "/trials"}));
  return text;
}

}  // namespace syncbn
