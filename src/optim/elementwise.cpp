// Elementwise update rules: SGD, Adagrad, Adam, AdamW.

#include <algorithm>

#include "optim/flat_optimizer.hpp"

namespace syncbn {
namespace {

// A rule goes over its operands more than once; blocks of this many elements stay in the first-level cache.
constexpr std::int64_t kBlock = 2048;
using Block = Eigen::Array<float, Eigen::Dynamic, 1, Eigen::ColMajor, kBlock, 1>;
/// The unevaluated product gradient_scale * gradient: rules that use it once need no array for it.
using ScaledGradient = decltype(1.0f * std::declval<const ConstFloatMap&>());

class Elementwise : public FlatOptimizer {
 public:
  using FlatOptimizer::FlatOptimizer;

 protected:
  /// Updates p in place; g does not include weight decay.
  virtual void update_block(const Segment& block, FloatMap p, const ScaledGradient& g, double lr) = 0;

  FloatMap state_of(std::size_t i, const Segment& block) const {
    return {state_at(i, block.offset), static_cast<Eigen::Index>(block.count)};
  }

 private:
  // Parts may begin at any multiple of 16 elements; what no slot covers (padding) stays untouched.
  std::vector<Segment> segments(int part, int parts) const final {
    const std::int64_t units = slots().empty() ? 0 : (slots().back().offset + slots().back().count + 15) / 16;
    const std::int64_t begin = units * part / parts * 16;
    const std::int64_t end = units * (part + 1) / parts * 16;
    std::vector<Segment> result;
    for (const auto& slot : slots()) {
      Segment segment = segment_of(slot, options());
      segment.offset = std::max(begin, slot.offset);
      segment.count = std::min(end, slot.offset + slot.count) - segment.offset;
      if (segment.count > 0) result.push_back(segment);
    }
    return result;
  }

  void update_segment(const Segment& segment, float* parameters, const float* gradient, const Step& step) final {
    for (std::int64_t done = 0; done < segment.count; done += kBlock) {
      Segment block = segment;
      block.offset += done;
      block.count = std::min(kBlock, segment.count - done);
      const auto n = static_cast<Eigen::Index>(block.count);
      const ConstFloatMap raw(gradient + done, n);
      update_block(block, FloatMap(parameters + done, n), step.gradient_scale * raw, step.lr);
    }
  }
};

class Sgd final : public Elementwise {
 public:
  Sgd(const OptimizerOptions& options, std::vector<ParameterSlot> slots, std::int64_t flat_size)
      : Elementwise(options, std::move(slots), flat_size,
                    options.momentum != 0 ? std::vector<std::string>{"momentum"} : std::vector<std::string>{}) {}

 private:
  // The buffer starts at zero, so after the first step it is g, as in PyTorch (dampening 0).
  void update_block(const Segment& block, FloatMap p, const ScaledGradient& g, double lr) override {
    const auto decayed = g + static_cast<float>(block.weight_decay) * p;
    const auto rate = static_cast<float>(lr), m = static_cast<float>(options().momentum);
    if (m == 0) {
      p -= rate * decayed;
      return;
    }
    FloatMap buffer = state_of(0, block);
    buffer = m * buffer + decayed;
    if (options().nesterov) {
      p -= rate * (decayed + m * buffer);
    } else {
      p -= rate * buffer;
    }
  }
};

class Adagrad final : public Elementwise {
 public:
  Adagrad(const OptimizerOptions& options, std::vector<ParameterSlot> slots, std::int64_t flat_size)
      : Elementwise(options, std::move(slots), flat_size, {"sum"}) {}

 private:
  void update_block(const Segment& block, FloatMap p, const ScaledGradient& scaled, double lr) override {
    const Block g = scaled + static_cast<float>(block.weight_decay) * p;
    FloatMap sum = state_of(0, block);
    sum += g.square();
    p -= static_cast<float>(lr) * (g / (sum.sqrt() + static_cast<float>(options().eps)));
  }
};

/// Adam (weight decay is part of the gradient) and AdamW (it shrinks the parameters directly).
class Adam final : public Elementwise {
 public:
  Adam(const OptimizerOptions& options, std::vector<ParameterSlot> slots, std::int64_t flat_size, bool decoupled)
      : Elementwise(options, std::move(slots), flat_size, {"exp_avg", "exp_avg_sq"}), decoupled_(decoupled) {}

 private:
  void update_block(const Segment& block, FloatMap p, const ScaledGradient& scaled, double lr) override {
    Block g = scaled;
    if (decoupled_) {
      p *= static_cast<float>(1 - lr * block.weight_decay);
    } else {
      g += static_cast<float>(block.weight_decay) * p;
    }
    const double beta1 = options().beta1, beta2 = options().beta2;
    const BiasCorrection correct = bias_correction(options(), updates() + 1);
    FloatMap mean = state_of(0, block), square = state_of(1, block);
    mean = static_cast<float>(beta1) * mean + static_cast<float>(1 - beta1) * g;
    square = static_cast<float>(beta2) * square + static_cast<float>(1 - beta2) * g.square();
    const auto rate = static_cast<float>(lr / correct.mean), correction = static_cast<float>(correct.root);
    p -= rate * (mean / (square.sqrt() / correction + static_cast<float>(options().eps)));
  }

  bool decoupled_;
};

}  // namespace

std::unique_ptr<FlatOptimizer> make_sgd(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                        std::int64_t flat_size) {
  return std::make_unique<Sgd>(options, std::move(slots), flat_size);
}

std::unique_ptr<FlatOptimizer> make_adagrad(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                            std::int64_t flat_size) {
  return std::make_unique<Adagrad>(options, std::move(slots), flat_size);
}

std::unique_ptr<FlatOptimizer> make_adam(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                         std::int64_t flat_size) {
  return std::make_unique<Adam>(options, std::move(slots), flat_size, false);
}

std::unique_ptr<FlatOptimizer> make_adamw(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                          std::int64_t flat_size) {
  return std::make_unique<Adam>(options, std::move(slots), flat_size, true);
}

}  // namespace syncbn
