#include "syncbn/optim/optimizer.hpp"

#include "optim/flat_optimizer.hpp"
#include "optim/options.hpp"
#include "optim/ranges.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

constexpr struct Rule {
  const char* name;
  OptimizerFactory* make;
} kRules[] = {{"sgd", make_sgd},     {"adagrad", make_adagrad}, {"adam", make_adam},
              {"adamw", make_adamw}, {"lars", make_lars},       {"lamb", make_lamb}};

/// Returns the rule of this name. Throws Error(usage) if there is none.
const Rule& rule_of(const std::string& name) {
  for (const Rule& rule : kRules)
    if (rule.name == name) return rule;
  refuse_name("optimizer.name", name, optimizer_names());
}

std::shared_ptr<float> memory_here(std::int64_t count) {
  const auto buffer = std::make_shared<Buffer>(static_cast<std::size_t>(count) * sizeof(float));
  return {buffer, buffer->as<float>()};
}

}  // namespace

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const Rule& rule : kRules) names.emplace_back(rule.name);
  return names;
}

void validate(const OptimizerOptions& options) {
  rule_of(options.name);
  require_in_range("optimizer.momentum", options.momentum, ranges::kMomentum);
  require_in_range("optimizer.beta1", options.beta1, ranges::kBeta);
  require_in_range("optimizer.beta2", options.beta2, ranges::kBeta);
  require_in_range("optimizer.eps", options.eps, ranges::kEps);
  require_in_range("optimizer.weight_decay", options.weight_decay, ranges::kWeightDecay);
  require_in_range("optimizer.trust_coefficient", options.trust_coefficient, ranges::kTrustCoefficient);
  if (options.nesterov && (options.name != "sgd" || options.momentum == 0)) {
    throw Error("optimizer.nesterov = true needs optimizer.name = sgd and optimizer.momentum > 0", ExitCode::usage);
  }
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                          std::int64_t flat_size, const StateMemory& memory) {
  validate(options);
  auto optimizer = rule_of(options.name).make(options, std::move(slots), flat_size);
  optimizer->allocate(memory ? memory : memory_here);
  return optimizer;
}

void gradient_squares(const std::vector<ParameterSlot>& slots, std::span<const float> gradient,
                      std::span<double> squares, int part, int parts) {
  for (const int i : slots_of_part(slots, part, parts)) {
    const auto& slot = slots[i];
    squares[i] =
        sum_of_squares(gradient.subspan(static_cast<std::size_t>(slot.offset), static_cast<std::size_t>(slot.count)));
  }
}

}  // namespace syncbn
