#include "train/run_progress.hpp"

#include <fmt/format.h>

#include <limits>
#include <sstream>

#include "core/text.hpp"
#include "syncbn/core/error.hpp"
#include "train/storage/scalars.hpp"

namespace syncbn {

namespace {

constexpr const char* kSeed = "seed";
constexpr const char* kData = "data";
constexpr const char* kMachines = "machines";
constexpr const char* kKernels = "kernels";
constexpr const char* kExperiment = "experiment";
constexpr const char* kUpdates = "updates";
constexpr const char* kBestAccuracy = "best_accuracy";
constexpr const char* kLastEvaluation = "last_evaluation";
constexpr const char* kEvaluation = "evaluation.";  // and the statistics it has normalized with
constexpr const char* kProbe = "probe.";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string write_result(const EvalResult& r) {
  return fmt::format("{} {} {} {}{}", write_exact(r.accuracy), write_exact(r.loss), r.correct, r.samples,
                     r.top5_accuracy ? " " + write_exact(*r.top5_accuracy) : "");
}

EvalResult parse_result(const Scalars& scalars, const std::string& statistics) {
  const std::string name = kEvaluation + statistics;
  std::istringstream in(text_scalar(scalars, name));
  std::string accuracy, loss, top5;
  EvalResult r;
  if (!(in >> accuracy >> loss >> r.correct >> r.samples)) refuse_scalar(scalars, name);
  r.statistics = statistics;
  try {
    r.accuracy = read_exact(accuracy);
    r.loss = read_exact(loss);
    if (in >> top5) r.top5_accuracy = read_exact(top5);  // earlier versions did not write it
  } catch (const Error&) {
    refuse_scalar(scalars, name);
  }
  return r;
}

}  // namespace

std::map<std::string, std::string> RunProgress::scalars() const {
  std::map<std::string, std::string> scalars = of_probes;
  scalars[kSeed] = std::to_string(seed);
  scalars[kData] = data;
  if (!machines.empty()) scalars[kMachines] = machines;
  scalars[kKernels] = kernels;
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
  p.data = text_scalar(scalars, kData);
  const auto take = [&scalars](const char* name, std::string& to) {  // what earlier versions did not write
    if (const auto found = scalars.find(name); found != scalars.end()) to = found->second;
  };
  take(kMachines, p.machines);
  take(kKernels, p.kernels);
  take(kExperiment, p.experiment);
  p.updates = whole_scalar(scalars, kUpdates, 0);
  p.best_accuracy = real_scalar(scalars, kBestAccuracy, -1, 1);
  p.last_evaluation = whole_scalar(scalars, kLastEvaluation, -1);
  for (const std::string& name : statistics) {
    if (scalars.contains(kEvaluation + name)) p.evaluations.push_back(parse_result(scalars, name));
  }
  for (const auto& [key, value] : scalars) {
    if (!key.starts_with(kProbe)) continue;
    real_scalar(scalars, key, -kInfinity, kInfinity);
    p.of_probes[key] = value;
  }
  return p;
}

}  // namespace syncbn
