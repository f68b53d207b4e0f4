#include "nn/normalization/statistics_pass.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "syncbn/core/error.hpp"

namespace syncbn {

namespace {

std::string describe(const char* type, const std::string& name, std::int64_t step) {
  return fmt::format("{} '{}' (step {}): ", type, name, step);
}

}  // namespace

StatisticsPass::StatisticsPass(const char* type, std::string name, std::int64_t channels, double eps,
                               Communicator group)
    : type_(type), name_(std::move(name)), channels_(channels), eps_(eps), group_(std::move(group)) {
  mean_.assign(static_cast<std::size_t>(channels), 0);
}

double StatisticsPass::unbiased_factor() const {
  return count_ > 1 ? static_cast<double>(count_) / static_cast<double>(count_ - 1) : 1;
}

void StatisticsPass::require_variance() const {
  syncbn::require_variance(type_, name_, step_, count_, group_.size());
}

std::string StatisticsPass::where() const {
  return describe(type_, name_, step_);
}

void StatisticsPass::start_contribution(std::span<double> message, std::int64_t step) {
  local_finite_ = local_finite_ && all_finite(message);
  start_all_reduce(message, step);
}

void StatisticsPass::start_all_reduce(std::span<double> message, std::int64_t step) {
  step_ = step;
  group_.start_all_reduce(message, Reduce::sum, Tag{name_, step});
}

bool all_finite(std::span<const double> values) {
  return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

void require_variance(const char* type, const std::string& name, std::int64_t step, std::int64_t count, int workers) {
  if (count != 1) return;
  throw Error(
      fmt::format("{}one value per channel in the whole group of {} has no variance; use a larger batch or group",
                  describe(type, name, step), workers == 1 ? "one worker" : std::to_string(workers) + " workers"));
}

}  // namespace syncbn
