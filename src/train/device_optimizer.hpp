#pragma once

#include <memory>
#include <string>
#include <vector>

#include "nn/flat_buffer.hpp"
#include "optim/scalars.hpp"

namespace syncbn {

/// The update rules of src/optim where parameters, gradients and state lie on a device. An update is not divided into
/// parts: it is part 0 of 1.
class DeviceOptimizer final : public Optimizer {
 public:
  /// Validates the options. The backend must outlive it.
  DeviceOptimizer(const OptimizerOptions& options, const std::vector<ParameterSlot>& slots, std::int64_t flat_size,
                  const ops::Backend& backend);

  std::vector<std::string> state_names() const override { return state_names_; }
  std::span<float> state(int i) override { return states_.at(static_cast<std::size_t>(i)).host(); }
  void fetch_state() override;
  void send_state() override;
  std::int64_t updates() const override { return updates_; }
  void set_updates(std::int64_t n) override { updates_ = n; }
  void count_update() override { ++updates_; }
  void update(std::span<float> parameters, std::span<const float> gradient, double lr, double gradient_scale, int part,
              int parts) override;
  void squares(std::span<const float> gradient, std::span<double> squares, int part, int parts) override;

 private:
  float* kernels(std::size_t i) const { return states_[i].kernels().data(); }
  ops::Updates::Adam adam_step(double lr, float scale) const;
  void lars(float* parameters, const float* gradient, double lr, float scale);
  void lamb(float* parameters, const float* gradient, double lr, float scale);

  OptimizerOptions options_;
  std::vector<Segment> segments_;  // of each slot
  std::vector<std::string> state_names_;
  std::vector<FlatBuffer> states_;
  ops::Memory direction_;  // of an update, for LAMB
  std::unique_ptr<ops::Updates> rules_;
  std::int64_t updates_ = 0;
};

/// An optimizer on the device of the backend if it has one, else on the CPU.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, const std::vector<ParameterSlot>& slots,
                                          std::int64_t flat_size, const ops::Backend& backend);

}  // namespace syncbn
