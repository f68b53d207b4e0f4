#include "syncbn/optim/schedule.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/rounding.hpp"
#include "optim/options.hpp"
#include "optim/ranges.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

double cosine_between(double from, double to, double t) {
  return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * t));
}

// Milestones count from the start of the run, warm-up included, as in He et al. 2016 and Goyal et al. 2017.
double step_factor(const ScheduleOptions& options, double step, double total) {
  double factor = 1;
  for (const double milestone : options.milestones) {
    if (step >= (milestone < 1 ? milestone * total * kRounding : milestone)) factor *= options.gamma;
  }
  return factor;
}

// `step` and `total` count the part after the warm-up. The last step is total - 1, and the phases end on whole steps.
double one_cycle_factor(const ScheduleOptions& options, double step, double total) {
  const double low = 1 / options.one_cycle_div, end = low / options.one_cycle_final_div;
  const double peak = options.one_cycle_start * total - 1, last = total - 1;
  if (step <= peak) return cosine_between(low, 1, peak > 0 ? step / peak : 1);
  return cosine_between(1, end, last > peak ? std::min((step - peak) / (last - peak), 1.0) : 1);
}

double schedule_factor(const ScheduleOptions& options, double step, double total) {
  if (options.name == "constant") return 1;
  if (options.name == "step") return step_factor(options, step, total);
  const double after = step - options.warmup_steps, span = std::max(total - options.warmup_steps, 1.0);
  const double t = std::min(after / span, 1.0);
  if (options.name == "cosine") return cosine_between(1, options.final_fraction, t);
  if (options.name == "polynomial") {
    return options.final_fraction + (1 - options.final_fraction) * std::pow(1 - t, options.power);
  }
  if (options.name == "one_cycle") return one_cycle_factor(options, after, span);
  refuse_name("schedule.name", options.name, schedule_names());
}

}  // namespace

const std::vector<std::string>& schedule_names() {
  static const std::vector<std::string> names = {"constant", "step", "cosine", "one_cycle", "polynomial"};
  return names;
}

const std::vector<std::string>& lr_scaling_names() {
  static const std::vector<std::string> names = {"none", "linear", "sqrt"};
  return names;
}

void validate(const ScheduleOptions& options) {
  const std::vector<std::string>& names = schedule_names();
  if (std::find(names.begin(), names.end(), options.name) == names.end())
    refuse_name("schedule.name", options.name, names);
  require_in_range("optimizer.lr", options.lr, ranges::kLearningRate);
  if (options.name == "step" && options.milestones.empty()) {
    throw Error("schedule.name = step needs schedule.milestones, for example [0.5, 0.75]", ExitCode::usage);
  }
  for (const double m : options.milestones) {
    require_in_range("schedule.milestones", m, ranges::kMilestone);
    if (m == 1) throw Error("schedule.milestones: 1 is neither a fraction below 1 nor a later step", ExitCode::usage);
  }
  require_in_range("schedule.gamma", options.gamma, ranges::kGamma);
  require_in_range("schedule.power", options.power, ranges::kPower);
  require_in_range("schedule.final_fraction", options.final_fraction, ranges::kFinalFraction);
  require_in_range("schedule.one_cycle_start", options.one_cycle_start, ranges::kOneCycleStart);
  require_in_range("schedule.one_cycle_div", options.one_cycle_div, ranges::kOneCycleDiv);
  require_in_range("schedule.one_cycle_final_div", options.one_cycle_final_div, ranges::kOneCycleDiv);
  require_in_range("schedule.warmup_steps", options.warmup_steps, ranges::kWarmupSteps);
  require_in_range("schedule.warmup_start", options.warmup_start, ranges::kWarmupStart);
}

double learning_rate(const ScheduleOptions& options, std::int64_t step, std::int64_t total_steps) {
  const auto at = static_cast<double>(step), total = static_cast<double>(std::max<std::int64_t>(total_steps, 1));
  if (at < options.warmup_steps) {
    return options.lr * (options.warmup_start + (1 - options.warmup_start) * at / options.warmup_steps);
  }
  return options.lr * schedule_factor(options, at, total);
}

double scaled_learning_rate(double lr, const std::string& rule, std::int64_t global_batch,
                            std::int64_t reference_batch) {
  if (rule == "none") return lr;
  if (global_batch < 1 || reference_batch < 1) {
    throw Error(fmt::format("learning rate scaling needs batches of at least 1, not {} (global) and {} "
                            "(optimizer.lr_reference_batch)",
                            global_batch, reference_batch),
                ExitCode::usage);
  }
  const double ratio = static_cast<double>(global_batch) / static_cast<double>(reference_batch);
  if (rule == "linear") return lr * ratio;
  if (rule == "sqrt") return lr * std::sqrt(ratio);
  refuse_name("optimizer.lr_scaling", rule, lr_scaling_names());
}

}  // namespace syncbn
