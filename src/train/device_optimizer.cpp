#include "train/device_optimizer.hpp"

#include <cmath>

namespace syncbn {

DeviceOptimizer::DeviceOptimizer(const OptimizerOptions& options, const std::vector<ParameterSlot>& slots,
                                 std::int64_t flat_size, const ops::Backend& backend)
    : options_(options), slots_(slots) {
  // The names of the state are part of a checkpoint, which any device can go on from.
  state_names_ = syncbn::make_optimizer(options, {}, 0)->state_names();
  for (std::size_t i = 0; i < state_names_.size(); ++i) states_.emplace_back(backend, flat_size);
  if (options.name == "lamb") direction_ = backend.allocate(static_cast<std::size_t>(flat_size) * sizeof(float));
  std::vector<ops::Updates::Slot> decaying;
  for (const ParameterSlot& slot : slots) {
    decays_.push_back(!slot.norm_or_bias || options.decay_norm_and_bias ? options.weight_decay : 0);
    decaying.push_back({slot.offset, slot.count, decays_.back()});
  }
  rules_ = backend.device()->updates(decaying);
}

void DeviceOptimizer::fetch_state() {
  for (const FlatBuffer& state : states_) state.fetch();
}

void DeviceOptimizer::send_state() {
  for (const FlatBuffer& state : states_) state.send();
}

void DeviceOptimizer::update(std::span<float> parameters, std::span<const float> gradient, double lr,
                             double gradient_scale, int, int) {
  float* p = parameters.data();
  const float* g = gradient.data();
  const auto scale = static_cast<float>(gradient_scale);
  const auto rate = static_cast<float>(lr), momentum = static_cast<float>(options_.momentum);
  if (options_.name == "sgd")
    return rules_->sgd({rate, scale, momentum, options_.nesterov}, p, g, states_.empty() ? nullptr : kernels(0));
  if (options_.name == "adagrad")
    return rules_->adagrad(rate, scale, static_cast<float>(options_.eps), p, g, kernels(0));
  if (options_.name == "lars") return lars(p, g, lr, scale);
  if (options_.name == "lamb") return lamb(p, g, lr, scale);
  rules_->adam(adam_step(lr, scale), p, g, kernels(0), kernels(1));
}

ops::Updates::Adam DeviceOptimizer::adam_step(double lr, float scale) const {
  const double beta1 = options_.beta1, beta2 = options_.beta2;
  const auto t = static_cast<double>(updates_);
  ops::Updates::Adam step{};
  step.rate = static_cast<float>(lr / (1 - std::pow(beta1, t)));
  step.correction = static_cast<float>(std::sqrt(1 - std::pow(beta2, t)));
  step.scale = scale;
  step.beta1 = static_cast<float>(beta1), step.one_minus_beta1 = static_cast<float>(1 - beta1);
  step.beta2 = static_cast<float>(beta2), step.one_minus_beta2 = static_cast<float>(1 - beta2);
  step.eps = static_cast<float>(options_.eps);
  step.lr = lr;
  step.decoupled = options_.name == "adamw";
  return step;
}

// You, Gitman & Ginsburg 2017, algorithm 1. A parameter that is still all zero, or gets no gradient, takes the plain
// step.
void DeviceOptimizer::lars(float* parameters, const float* gradient, double lr, float scale) {
  std::vector<double> p_squares(slots_.size()), g_squares(slots_.size());
  rules_->squares(parameters, p_squares);
  rules_->squares(gradient, g_squares);
  std::vector<float> rates(slots_.size());
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const double p_norm = std::sqrt(p_squares[i]);
    const double g_norm = std::sqrt(g_squares[i]) * std::abs(static_cast<double>(scale));
    double ratio = 1;
    const bool adapts = !slots_[i].norm_or_bias || options_.decay_norm_and_bias;
    if (adapts && p_norm > 0 && g_norm > 0)
      ratio = options_.trust_coefficient * p_norm / (g_norm + decays_[i] * p_norm + options_.eps);
    rates[i] = static_cast<float>(lr * ratio);
  }
  rules_->lars(static_cast<float>(options_.momentum), scale, rates, parameters, gradient, kernels(0));
}

// You et al. 2020, algorithm 2.
void DeviceOptimizer::lamb(float* parameters, const float* gradient, double lr, float scale) {
  ops::Updates::Adam step = adam_step(lr, scale);
  step.rate = static_cast<float>(1 - std::pow(options_.beta1, static_cast<double>(updates_)));
  rules_->lamb_direction(step, parameters, gradient, kernels(0), kernels(1), direction_.as<float>());
  std::vector<double> p_squares(slots_.size()), u_squares(slots_.size());
  rules_->squares(parameters, p_squares);
  rules_->squares(direction_.as<float>(), u_squares);
  std::vector<float> rates(slots_.size());
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const double p_norm = std::sqrt(p_squares[i]), u_norm = std::sqrt(u_squares[i]);
    const bool adapts = !slots_[i].norm_or_bias || options_.decay_norm_and_bias;
    rates[i] = static_cast<float>(lr * (adapts && p_norm > 0 && u_norm > 0 ? p_norm / u_norm : 1));
  }
  rules_->descend(rates, parameters, direction_.as<float>());
}

void DeviceOptimizer::squares(std::span<const float> gradient, std::span<double> squares, int, int) {
  rules_->squares(gradient.data(), squares);
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, const std::vector<ParameterSlot>& slots,
                                          std::int64_t flat_size, const ops::Backend& backend) {
  if (!backend.device())
    return make_optimizer(options, slots, flat_size, [&backend](std::int64_t count) -> std::shared_ptr<float> {
      const auto memory =
          std::make_shared<ops::Memory>(backend.allocate(static_cast<std::size_t>(count) * sizeof(float)));
      return {memory, memory->as<float>()};
    });
  return std::make_unique<DeviceOptimizer>(options, slots, flat_size, backend);
}

}  // namespace syncbn
