#include "optim/flat_optimizer.hpp"

#include <fmt/format.h>

#include "syncbn/core/error.hpp"

namespace syncbn {

namespace {

void require_part(int part, int parts) {
  if (part < 0 || part >= parts)
    throw Error(fmt::format("optimizer: part {} of {} parts: they count from 0", part, parts), ExitCode::usage);
}

}  // namespace

std::vector<int> slots_of_part(const std::vector<ParameterSlot>& slots, int part, int parts) {
  require_part(part, parts);
  std::int64_t total = 0;
  for (const auto& slot : slots) total += slot.count;
  std::vector<int> mine;
  std::int64_t before = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::int64_t middle = before + slots[i].count / 2;
    before += slots[i].count;
    const std::int64_t owner = total > 0 ? std::min<std::int64_t>(middle * parts / total, parts - 1) : 0;
    if (owner == part) mine.push_back(static_cast<int>(i));
  }
  return mine;
}

double sum_of_squares(std::span<const float> values) {
  // Eight running sums for any vector width, so that the source determines the order of additions.
  constexpr std::size_t kLanes = 8;
  using Lanes = Eigen::Array<double, kLanes, 1>;
  Lanes sums = Lanes::Zero();
  const std::size_t whole = values.size() / kLanes * kLanes;
  for (std::size_t i = 0; i < whole; i += kLanes) {
    sums += Eigen::Map<const Eigen::Array<float, kLanes, 1>>(values.data() + i).cast<double>().square();
  }
  for (std::size_t i = whole; i < values.size(); ++i) {
    sums[static_cast<Eigen::Index>(i - whole)] += static_cast<double>(values[i]) * values[i];
  }
  double sum = 0;
  for (std::size_t i = 0; i < kLanes; ++i) sum += sums[static_cast<Eigen::Index>(i)];
  return sum;
}

FlatOptimizer::FlatOptimizer(const OptimizerOptions& options, std::vector<ParameterSlot> slots, std::int64_t flat_size,
                             std::vector<std::string> state_names)
    : options_(options), slots_(std::move(slots)), flat_size_(flat_size), state_names_(std::move(state_names)) {
  std::int64_t end = 0;
  for (const auto& slot : slots_) {
    if (slot.offset % 16 != 0 || slot.offset < end || slot.count < 0 || slot.offset + slot.count > flat_size_) {
      throw Error(fmt::format("parameter {}: elements {} to {} do not fit after {} in a flat buffer of {}", slot.name,
                              slot.offset, slot.offset + slot.count, end, flat_size_));
    }
    end = slot.offset + slot.count;
  }
}

void FlatOptimizer::allocate(const StateMemory& memory) {
  for (std::size_t i = 0; i < state_names_.size(); ++i) states_.push_back(memory(flat_size_));
}

std::span<float> FlatOptimizer::state(int i) {
  return {states_.at(static_cast<std::size_t>(i)).get(), static_cast<std::size_t>(flat_size_)};
}

void FlatOptimizer::update(std::span<float> parameters, std::span<const float> gradient, double lr,
                           double gradient_scale, int part, int parts) {
  const auto size = static_cast<std::size_t>(flat_size_);
  if (parameters.size() != size || gradient.size() != size) {
    throw Error(fmt::format("optimizer: {} parameters and {} gradients given, {} expected", parameters.size(),
                            gradient.size(), size));
  }
  require_part(part, parts);
  const Step step{lr, static_cast<float>(gradient_scale)};
  for (const Segment& segment : segments(part, parts)) {
    update_segment(segment, parameters.data() + segment.offset, gradient.data() + segment.offset, step);
  }
}

}  // namespace syncbn
