#include "syncbn/optim/optimizer.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>

#include "optim/flat_optimizer.hpp"
#include "optim/ranges.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/core/text.hpp"

namespace syncbn {
namespace {

const std::map<std::string, OptimizerFactory*>& factories() {
  static const std::map<std::string, OptimizerFactory*> all = {{"sgd", make_sgd},   {"adagrad", make_adagrad},
                                                               {"adam", make_adam}, {"adamw", make_adamw},
                                                               {"lars", make_lars}, {"lamb", make_lamb}};
  return all;
}

std::shared_ptr<float> memory_here(std::int64_t count) {
  const auto buffer = std::make_shared<Buffer>(static_cast<std::size_t>(count) * sizeof(float));
  return {buffer, buffer->as<float>()};
}

void require(const char* key, double value, const Range& range) {
  if (range.contains(value)) return;
  throw Error(fmt::format("optimizer.{} = {} must be a number {}", key, value, range.str()), ExitCode::usage);
}

}  // namespace

void validate(const OptimizerOptions& options) {
  if (!factories().contains(options.name)) {
    std::vector<std::string> names;
    for (const auto& [name, factory] : factories()) names.push_back(name);
    const std::string near = nearest(options.name, names);
    throw Error(fmt::format("optimizer.name = {} is unknown; {}one of: {}", options.name,
                            near.empty() ? "" : fmt::format("did you mean {}? ", near), fmt::join(names, ", ")),
                ExitCode::usage);
  }
  require("momentum", options.momentum, ranges::kMomentum);
  require("beta1", options.beta1, ranges::kBeta);
  require("beta2", options.beta2, ranges::kBeta);
  require("eps", options.eps, ranges::kEps);
  require("weight_decay", options.weight_decay, ranges::kWeightDecay);
  require("trust_coefficient", options.trust_coefficient, ranges::kTrustCoefficient);
  if (options.nesterov && (options.name != "sgd" || options.momentum == 0)) {
    throw Error("optimizer.nesterov = true needs optimizer.name = sgd and optimizer.momentum > 0", ExitCode::usage);
  }
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                          std::int64_t flat_size, const StateMemory& memory) {
  validate(options);
  auto optimizer = factories().at(options.name)(options, std::move(slots), flat_size);
  optimizer->allocate(memory ? memory : memory_here);
  return optimizer;
}

void gradient_squares(const std::vector<ParameterSlot>& slots, std::span<const float> gradient,
                      std::span<double> squares, int part, int parts) {
  for (const int i : slots_of_part(slots, part, parts)) {
    const auto& slot = slots[static_cast<std::size_t>(i)];
    squares[static_cast<std::size_t>(i)] =
        sum_of_squares(gradient.subspan(static_cast<std::size_t>(slot.offset), static_cast<std::size_t>(slot.count)));
  }
}

}  // namespace syncbn
