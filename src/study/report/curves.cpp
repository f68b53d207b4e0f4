#include "study/report/curves.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "study/statistics.hpp"
#include "train/storage/durable_file.hpp"

namespace syncbn {
namespace {

constexpr std::size_t kMaxPlaces = 60;
/// The end of training over which the training error is averaged, as a share of all logged lines.
constexpr double kEnd = 0.1;

struct Log {
  std::map<std::int64_t, double> error, loss;  // by step
  std::map<std::int64_t, double> epoch;
  double train_error = std::numeric_limits<double>::quiet_NaN();
};

Log read_log(const std::string& path) {
  Log log;
  if (!path_exists(path)) return log;
  std::istringstream lines(read_text(path));
  std::vector<double> train_errors;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    const auto number = [&json](const char* key) { return json.contains(key) && json.at(key).is_number(); };
    const bool counted = json.contains("step") && json.at("step").is_number_integer();
    if (!counted || !json.contains("kind") || !number("epoch") || !number("accuracy")) continue;  // torn, odd
    const auto step = json.at("step").get<std::int64_t>();
    const double error = 100 * (1 - json.at("accuracy").get<double>());
    if (json.at("kind") == "eval") {
      log.error[step] = error;
    } else if (json.at("kind") == "train" && number("loss")) {
      log.loss[step] = json.at("loss").get<double>();
      train_errors.push_back(error);
    } else {
      continue;
    }
    log.epoch[step] = json.at("epoch").get<double>();
  }
  const auto count = static_cast<std::size_t>(std::ceil(kEnd * static_cast<double>(train_errors.size())));
  if (count > 0) {
    double sum = 0;
    for (std::size_t i = train_errors.size() - count; i < train_errors.size(); ++i) sum += train_errors[i];
    log.train_error = sum / static_cast<double>(count);
  }
  return log;
}

/// Steps that all logs have, at most kMaxPlaces of them, the last one included.
std::vector<std::int64_t> common_steps(const std::vector<Log>& logs, std::map<std::int64_t, double> Log::*what) {
  std::vector<std::int64_t> steps;
  for (const auto& [step, value] : logs.front().*what) {
    if (std::all_of(logs.begin(), logs.end(), [&, s = step](const Log& l) { return (l.*what).contains(s); })) {
      steps.push_back(step);
    }
  }
  const std::size_t stride = (steps.size() + kMaxPlaces - 1) / kMaxPlaces;
  std::vector<std::int64_t> kept;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if ((steps.size() - 1 - i) % stride == 0) kept.push_back(steps[i]);
  }
  return kept;
}

std::vector<double> values_at(const std::vector<Log>& logs, std::map<std::int64_t, double> Log::*what,
                              std::int64_t step) {
  std::vector<double> values;
  for (const Log& log : logs) values.push_back((log.*what).at(step));
  return values;
}

Curve mean_curve(int point, const std::vector<Log>& logs) {
  Curve curve;
  curve.point = point;
  for (const std::int64_t step : common_steps(logs, &Log::error)) {
    const Interval error = mean_interval(values_at(logs, &Log::error, step));
    curve.epochs.push_back(logs.front().epoch.at(step));
    curve.errors.push_back(error.mean);
    curve.halves.push_back(error.half);
  }
  for (const std::int64_t step : common_steps(logs, &Log::loss)) {
    curve.train_epochs.push_back(logs.front().epoch.at(step));
    curve.losses.push_back(mean_interval(values_at(logs, &Log::loss, step)).mean);
  }
  std::vector<double> ends;
  for (const Log& log : logs) ends.push_back(log.train_error);
  curve.train_error = mean_interval(ends).mean;
  return curve;
}

}  // namespace

std::vector<Curve> read_curves(const Results& results) {
  std::map<int, std::vector<std::string>> files;  // by point
  for (const TrialRow& row : results.rows) {
    if (row.search || !row.outcome || row.outcome->status != Outcome::Status::done) continue;
    files[row.point].push_back(results.dir + "/" + row.folder + "/metrics.jsonl");
  }
  std::vector<Curve> curves;
  for (const auto& [point, of_point] : files) {  // logs may be long: those of one point at a time
    std::vector<Log> logs;
    for (const std::string& file : of_point) logs.push_back(read_log(file));
    curves.push_back(mean_curve(point, logs));
  }
  return curves;
}

}  // namespace syncbn
