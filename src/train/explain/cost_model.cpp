#include "train/explain/cost_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "comm/order/shards.hpp"

namespace syncbn {
namespace {

// The backward pass, which gradient messages run beside, is about two thirds of the compute.
constexpr double kBackwardShare = 2.0 / 3;

double exchange(const MachineFigures& f, double bytes, int ranks) {
  if (ranks < 2) return 0;
  const double others = ranks - 1;
  const double stage = f.latency + (others - 1) * f.per_message;
  if (bytes <= static_cast<double>(detail::kWholeMessageBytes)) return stage + others * bytes / f.bandwidth;
  return 2 * (stage + others / ranks * bytes / f.bandwidth);
}

double messages(const MachineFigures& f, const Traffic& traffic, int ranks) {
  if (traffic.messages == 0) return 0;
  const auto count = static_cast<double>(traffic.messages);
  return count * exchange(f, static_cast<double>(traffic.bytes) / count, ranks);
}

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

}  // namespace

std::string StepCost::largest() const {
  const std::array<std::pair<double, const char*>, 5> parts = {
      {{compute, "compute"}, {statistics, "statistics"}, {gradients, "gradients"}, {skew, "skew"}, {update, "update"}}};
  return std::max_element(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first < b.first; })
      ->second;
}

StepCost predict_step(const Config& config, const Explanation& e, const MachineFigures& f, int ranks) {
  StepCost cost;
  cost.ranks = ranks;
  const int local_workers = ceil_div(e.workers, ranks);
  const double waves = ceil_div(local_workers, f.threads);
  cost.compute = waves * static_cast<double>(e.batch_per_worker * config.train.accumulate) * f.sample;
  // A group's workers are neighbours; only ranks that hold some of them exchange its statistics.
  const int ranks_of_group = std::min(ranks, ceil_div(e.group, local_workers));
  cost.statistics =
      messages(f, e.statistics_forward, ranks_of_group) + messages(f, e.statistics_backward, ranks_of_group);
  const double gradients = messages(f, e.gradients, ranks);
  const double hidden = config.overlap ? kBackwardShare * cost.compute : 0;
  const double last = e.gradients.messages > 0 ? gradients / static_cast<double>(e.gradients.messages) : 0;
  cost.gradients = std::max(last, gradients - hidden);
  const auto late = [&](int of) { return of > 1 ? f.skew * std::sqrt(2 * std::log(of)) : 0.0; };
  cost.skew =
      static_cast<double>(e.statistics_forward.messages + e.statistics_backward.messages) * late(ranks_of_group) +
      late(ranks);
  cost.update = f.update / (f.threads * std::min(ranks, f.ranks_per_machine));
  return cost;
}

std::vector<StepCost> predict_steps(const Config& config, const MachineFigures& figures) {
  std::vector<StepCost> costs;
  for (int ranks = 1; ranks <= config.workers; ranks *= 2) {
    costs.push_back(predict_step(config, explain(config, ranks), figures, ranks));
  }
  return costs;
}

}  // namespace syncbn
