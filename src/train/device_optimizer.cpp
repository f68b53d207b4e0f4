#include "train/device_optimizer.hpp"

#include <cmath>

namespace syncbn {

DeviceOptimizer::DeviceOptimizer(const OptimizerOptions& options, const std::vector<ParameterSlot>& slots,
                                 std::int64_t flat_size, const ops::Backend& backend)
    : options_(options) {
  // The names of the state are part of a checkpoint, which any device can go on from.
  state_names_ = syncbn::make_optimizer(options, {}, 0)->state_names();
  for (std::size_t i = 0; i < state_names_.size(); ++i) states_.emplace_back(backend, flat_size);
  if (options.name == "lamb") direction_ = backend.allocate(static_cast<std::size_t>(flat_size) * sizeof(float));
  std::vector<ops::Updates::Slot> decaying;
  for (const ParameterSlot& slot : slots) {
    segments_.push_back(segment_of(slot, options));
    decaying.push_back({slot.offset, slot.count, segments_.back().weight_decay});
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
  const BiasCorrection correct = bias_correction(options_, updates_ + 1);
  ops::Updates::Adam step{};
  step.rate = static_cast<float>(lr / correct.mean);
  step.correction = static_cast<float>(correct.root);
  step.scale = scale;
  step.beta1 = static_cast<float>(beta1), step.one_minus_beta1 = static_cast<float>(1 - beta1);
  step.beta2 = static_cast<float>(beta2), step.one_minus_beta2 = static_cast<float>(1 - beta2);
  step.eps = static_cast<float>(options_.eps);
  step.lr = lr;
  step.decoupled = options_.name == "adamw";
  return step;
}

// You, Gitman & Ginsburg 2017, algorithm 1.
void DeviceOptimizer::lars(float* parameters, const float* gradient, double lr, float scale) {
  std::vector<double> p_squares(segments_.size()), g_squares(segments_.size());
  rules_->squares(parameters, p_squares);
  rules_->squares(gradient, g_squares);
  std::vector<float> rates;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const double g_norm = std::sqrt(g_squares[i]) * std::abs(static_cast<double>(scale));
    rates.push_back(static_cast<float>(lr * lars_ratio(segments_[i], std::sqrt(p_squares[i]), g_norm, options_)));
  }
  rules_->lars(static_cast<float>(options_.momentum), scale, rates, parameters, gradient, kernels(0));
}

// You et al. 2020, algorithm 2.
void DeviceOptimizer::lamb(float* parameters, const float* gradient, double lr, float scale) {
  ops::Updates::Adam step = adam_step(lr, scale);
  step.rate = static_cast<float>(bias_correction(options_, updates_ + 1).mean);
  rules_->lamb_direction(step, parameters, gradient, kernels(0), kernels(1), direction_.as<float>());
  std::vector<double> p_squares(segments_.size()), u_squares(segments_.size());
  rules_->squares(parameters, p_squares);
  rules_->squares(direction_.as<float>(), u_squares);
  std::vector<float> rates;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const double ratio = lamb_ratio(segments_[i], std::sqrt(p_squares[i]), std::sqrt(u_squares[i]));
    rates.push_back(static_cast<float>(lr * ratio));
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
