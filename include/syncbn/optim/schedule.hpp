#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace syncbn {

struct ScheduleOptions {
  std::string name = "constant";   ///< constant, step, cosine, one_cycle, polynomial
  double lr = 0.1;                 ///< peak rate, after scaling
  std::vector<double> milestones;  ///< step: fractions of the run in (0, 1), or step numbers if > 1
  double gamma = 0.1;              ///< step: factor at each milestone
  double power = 1;                ///< polynomial
  double final_fraction = 0;       ///< cosine, polynomial: rate at the end as a fraction of lr
  double one_cycle_start = 0.3;    ///< one_cycle: fraction of the run in which the rate rises
  double one_cycle_div = 25;       ///< one_cycle: lr / div at the start
  double one_cycle_final_div = 1e4;
  double warmup_steps = 0;  ///< linear from warmup_start*lr; then the schedule itself
  double warmup_start = 0;
};

/// Valid values of ScheduleOptions::name.
const std::vector<std::string>& schedule_names();

/// Throws Error(usage) for an unknown name (with the nearest valid one) and for values out of range.
void validate(const ScheduleOptions& options);

/// Learning rate of a step (0-based) in a run of total_steps. A pure function. Warm-up starts at warmup_start * lr in
/// step 0 and reaches lr in step warmup_steps. Milestones count from the start of the run; the other schedules span the
/// steps after the warm-up. Sources: cosine - Loshchilov & Hutter 2017; one cycle - Smith & Topin 2018 (cosine form, as
/// PyTorch's OneCycleLR); warm-up - Goyal et al. 2017.
double learning_rate(const ScheduleOptions& options, std::int64_t step, std::int64_t total_steps);

/// Valid rules of scaled_learning_rate().
const std::vector<std::string>& lr_scaling_names();

/// Returns lr times (global_batch / reference)^power: linear (power 1; Goyal et al. 2017), sqrt (1/2; Krizhevsky 2014),
/// none.
double scaled_learning_rate(double lr, const std::string& rule, std::int64_t global_batch,
                            std::int64_t reference_batch);

}  // namespace syncbn
