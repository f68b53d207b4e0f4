// Update rules that need the norm of a whole parameter: LARS, LAMB.

#include <cmath>

#include "optim/flat_optimizer.hpp"

namespace syncbn {
namespace {

class Layerwise : public FlatOptimizer {
 public:
  using FlatOptimizer::FlatOptimizer;

 private:
  std::vector<Segment> segments(int part, int parts) const final {
    std::vector<Segment> result;
    for (const int i : slots_of_part(slots(), part, parts)) {
      result.push_back(segment_of(slots()[i], options()));
    }
    return result;
  }
};

double norm(const float* values, std::int64_t count) {
  return std::sqrt(sum_of_squares({values, static_cast<std::size_t>(count)}));
}

/// You, Gitman & Ginsburg 2017, algorithm 1: v = m v + lr ratio (g + decay p), p = p - v.
class Lars final : public Layerwise {
 public:
  Lars(const OptimizerOptions& options, std::vector<ParameterSlot> slots, std::int64_t flat_size)
      : Layerwise(options, std::move(slots), flat_size, {"momentum"}) {}

 private:
  void update_segment(const Segment& segment, float* parameters, const float* gradient, const Step& step) override {
    double ratio = 1;
    if (segment.adapt) {
      const double g_norm = norm(gradient, segment.count) * std::abs(static_cast<double>(step.gradient_scale));
      ratio = lars_ratio(segment, norm(parameters, segment.count), g_norm, options());
    }
    const auto n = static_cast<Eigen::Index>(segment.count);
    FloatMap p(parameters, n), v(state_at(0, segment.offset), n);
    const ConstFloatMap g(gradient, n);
    v = static_cast<float>(options().momentum) * v +
        static_cast<float>(step.lr * ratio) * (step.gradient_scale * g + static_cast<float>(segment.weight_decay) * p);
    p -= v;
  }
};

/// You et al. 2020, algorithm 2, with bias correction and phi(x) = x: u = Adam's direction + decay p,
/// p = p - lr |p| / |u| u.
class Lamb final : public Layerwise {
 public:
  Lamb(const OptimizerOptions& options, std::vector<ParameterSlot> slots, std::int64_t flat_size)
      : Layerwise(options, std::move(slots), flat_size, {"exp_avg", "exp_avg_sq"}),
        direction_(static_cast<std::size_t>(flat_size) * sizeof(float)) {}

 private:
  void update_segment(const Segment& segment, float* parameters, const float* gradient, const Step& step) override {
    const auto n = static_cast<Eigen::Index>(segment.count);
    FloatMap p(parameters, n), u(direction_.as<float>() + segment.offset, n);
    FloatMap mean(state_at(0, segment.offset), n), square(state_at(1, segment.offset), n);
    const ConstFloatMap g(gradient, n);

    const double beta1 = options().beta1, beta2 = options().beta2;
    const BiasCorrection correct = bias_correction(options(), updates() + 1);
    mean = static_cast<float>(beta1) * mean + static_cast<float>(1 - beta1) * (step.gradient_scale * g);
    square = static_cast<float>(beta2) * square + static_cast<float>(1 - beta2) * (step.gradient_scale * g).square();
    u = (mean / static_cast<float>(correct.mean)) /
            (square.sqrt() / static_cast<float>(correct.root) + static_cast<float>(options().eps)) +
        static_cast<float>(segment.weight_decay) * p;

    double ratio = 1;
    if (segment.adapt) ratio = lamb_ratio(segment, norm(p.data(), segment.count), norm(u.data(), segment.count));
    p -= static_cast<float>(step.lr * ratio) * u;
  }

  Buffer direction_;
};

}  // namespace

std::unique_ptr<FlatOptimizer> make_lars(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                         std::int64_t flat_size) {
  return std::make_unique<Lars>(options, std::move(slots), flat_size);
}

std::unique_ptr<FlatOptimizer> make_lamb(const OptimizerOptions& options, std::vector<ParameterSlot> slots,
                                         std::int64_t flat_size) {
  return std::make_unique<Lamb>(options, std::move(slots), flat_size);
}

}  // namespace syncbn
