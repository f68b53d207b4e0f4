#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "optim/scalars.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn {

using FloatMap = Eigen::Map<Eigen::ArrayXf>;
using ConstFloatMap = Eigen::Map<const Eigen::ArrayXf>;

/// The arguments of one update that are the same for every segment.
struct Step {
  double lr = 0;
  float gradient_scale = 1;
};

/// Returns the slots whose middle lies in the part's share of all elements: whole slots, each in exactly one part.
std::vector<int> slots_of_part(const std::vector<ParameterSlot>& slots, int part, int parts);

/// Sum of squares in f64 in a fixed order.
double sum_of_squares(std::span<const float> values);

/// The base of optimizers: flat state buffers, the count of updates and the split into parts; derived classes hold the
/// formulas.
class FlatOptimizer : public Optimizer {
 public:
  FlatOptimizer(const OptimizerOptions& options, std::vector<ParameterSlot> slots, std::int64_t flat_size,
                std::vector<std::string> state_names);

  /// Allocates the state; to be called before anything else.
  void allocate(const StateMemory& memory);
  std::vector<std::string> state_names() const override { return state_names_; }
  std::span<float> state(int i) override;
  std::int64_t updates() const override { return updates_; }
  void set_updates(std::int64_t n) override { updates_ = n; }
  void count_update() override { ++updates_; }
  void update(std::span<float> parameters, std::span<const float> gradient, double lr, double gradient_scale, int part,
              int parts) override;
  void squares(std::span<const float> gradient, std::span<double> squares, int part, int parts) override {
    gradient_squares(slots_, gradient, squares, part, parts);
  }

 protected:
  /// Returns the parameters of a part, in order.
  virtual std::vector<Segment> segments(int part, int parts) const = 0;
  virtual void update_segment(const Segment& segment, float* parameters, const float* gradient, const Step& step) = 0;

  float* state_at(std::size_t i, std::int64_t offset) const { return states_[i].get() + offset; }
  const OptimizerOptions& options() const { return options_; }
  const std::vector<ParameterSlot>& slots() const { return slots_; }

 private:
  OptimizerOptions options_;
  std::vector<ParameterSlot> slots_;
  std::int64_t flat_size_;
  std::vector<std::string> state_names_;
  std::vector<std::shared_ptr<float>> states_;
  std::int64_t updates_ = 0;
};

// The update rules, one per `optimizer.name`.
using OptimizerFactory = std::unique_ptr<FlatOptimizer>(const OptimizerOptions& options,
                                                        std::vector<ParameterSlot> slots, std::int64_t flat_size);
OptimizerFactory make_sgd, make_adagrad, make_adam, make_adamw, make_lars, make_lamb;

}  // namespace syncbn
