#include "train/run_progress.hpp"

#include <fmt/format.h>

#include <sstream>

#include "core/text.hpp"

namespace syncbn {

namespace {

constexpr const char* kSeed = "seed";
constexpr const char* kData = "data";
constexpr const char* kMachines = "machines";
constexpr const char* kExperiment = "experiment";
constexpr const char* kUpdates = "updates";
constexpr const char* kBestAccuracy = "best_accuracy";
constexpr const char* kLastEvaluation = "last_evaluation";
constexpr const char* kEvaluation = "evaluation.";  // and the statistics it has normalized with
constexpr const char* kProbe = "probe.";

std::string write_result(const EvalResult& r) {
  return fmt::format("{} {} {} {}", write_exact(r.accuracy), write_exact(r.loss), r.correct, r.samples);
}

EvalResult parse_result(const std::string& statistics, const std::string& text) {
  std::istringstream in(text);
  std::string accuracy, loss;
  EvalResult r;
  in >> accuracy >> loss >> r.correct >> r.samples;
  r.statistics = statistics;
  r.accuracy = read_exact(accuracy);
  r.loss = read_exact(loss);
  return r;
}

}  // namespace

std::map<std::string, std::string> RunProgress::scalars() const {
  std::map<std::string, std::string> scalars = of_probes;
  scalars[kSeed] = std::to_string(seed);
  scalars[kData] = data;
  if (!machines.empty()) scalars[kMachines] = machines;
  scalars[kExperiment] = experiment;
  scalars[kUpdates] = std::to_string(updates);
  scalars[kBestAccuracy] = write_exact(best_accuracy);
  scalars[kLastEvaluation] = std::to_string(last_evaluation);
  for (const EvalResult& r : evaluations) scalars[kEvaluation + r.statistics] = write_result(r);
  return scalars;
}

RunProgress RunProgress::of(const TrainingState& saved, const std::vector<std::string>& statistics) {
  const auto& scalars = saved.scalars;
  RunProgress p;
  p.steps_done = saved.step;
  if (const auto seed = scalars.find(kSeed); seed != scalars.end()) p.seed = std::stoull(seed->second);
  p.data = scalars.at(kData);
  if (const auto machines = scalars.find(kMachines); machines != scalars.end()) p.machines = machines->second;
  if (const auto experiment = scalars.find(kExperiment); experiment != scalars.end()) p.experiment = experiment->second;
  p.updates = std::stoll(scalars.at(kUpdates));
  p.best_accuracy = read_exact(scalars.at(kBestAccuracy));
  p.last_evaluation = std::stoll(scalars.at(kLastEvaluation));
  for (const std::string& name : statistics) {
    const auto stored = scalars.find(kEvaluation + name);
    if (stored != scalars.end()) p.evaluations.push_back(parse_result(name, stored->second));
  }
  for (const auto& [key, value] : scalars) {
    if (key.starts_with(kProbe)) p.of_probes[key] = value;
  }
  return p;
}

}  // namespace syncbn
