#include "train/probes/gradient_noise.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/text.hpp"
#include "optim/flat_optimizer.hpp"
#include "train/probes/probe.hpp"

namespace syncbn {

GradientNoise gradient_noise(double small, double parts, double big, double all) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  if (parts < 2) return {nan, nan};
  const double samples_small = all / parts;
  return {(all * big - samples_small * small) / (all - samples_small), (small - big) / (1 / samples_small - 1 / all)};
}

namespace {

constexpr double kDecay = 0.95;  // per watched update
constexpr const char* kSquaredKey = "probe.gradient_noise_scale.squared";
constexpr const char* kTraceKey = "probe.gradient_noise_scale.trace";

/// The parts are the normalization groups, single workers where no statistics are shared: within a group the gradients
/// of one worker's samples depend on the others' (under batch normalization they cancel in part), so that it takes
/// whole groups to have independent parts. Over the weights and biases of convolutions and linear layers; normalized
/// weights as the kernels see them. A single update says little: `scale` is the ratio of the two estimates' moving
/// averages, as in appendix A.1.
class GradientNoiseProbe : public Probe {
 public:
  explicit GradientNoiseProbe(const ProbeContext& context) : context_(context) {
    const Model& model = context.model();
    of_layer_.resize(model.layers.size());
    std::int64_t all = 0;
    for (int l = 0; l < static_cast<int>(model.layers.size()); ++l) {
      if (is_norm(model.layers[l].type)) continue;
      for (const int p : {context.state.weight_of(l), context.state.bias_of(l)}) {
        if (p < 0) continue;
        of_layer_[l].push_back({context.state.parameter(p), all});
        all += context.state.parameter(p).count;
      }
    }
    part_.resize(static_cast<std::size_t>(all));
  }

  void gradient_ready(int layer) override {
    for (const Range& r : of_layer_[layer]) {
      std::copy_n(context_.gradient.begin() + r.from.offset, r.from.count, part_.begin() + r.to);
    }
  }

  void gradient_summed(std::span<const float> exchanged, std::span<const float>) override {
    // Every worker has the sum; each takes its share of the work.
    big_ = 0;
    for (const auto& ranges : of_layer_) {
      for (const Range& r : ranges) {
        big_ += squares_of_share(
            exchanged.subspan(static_cast<std::size_t>(r.from.offset), static_cast<std::size_t>(r.from.count)),
            context_.all);
      }
    }
  }

  std::vector<Measurement> measure(const ProbedUpdate& update) override {
    auto samples = static_cast<double>(update.samples);
    context_.group.all_reduce(std::span(&samples, 1), Reduce::sum, {"gradient_noise_scale samples", update.step});
    context_.group.all_reduce(std::span(part_), Reduce::sum, {"gradient_noise_scale group", update.step});
    // The gradients here have been divided by the samples of all workers, so that the gradient of a part of n samples
    // is n / all times its mean.
    const auto all = static_cast<double>(update.all_samples);
    const bool counts = samples > 0 && context_.group.rank() == 0;
    std::array<double, 3> sums{samples > 0 ? squares_of_share(part_, context_.group) * all / samples : 0,
                               counts ? 1.0 : 0.0, big_};
    context_.all.all_reduce(std::span<double>(sums), Reduce::sum, {"gradient_noise_scale", update.step});
    if (context_.all.rank() != 0) return {};
    const GradientNoise now = gradient_noise(sums[0], sums[1], sums[2], all);
    if (std::isfinite(now.squared) && std::isfinite(now.trace)) {
      average_.squared = kDecay * average_.squared + (1 - kDecay) * now.squared;
      average_.trace = kDecay * average_.trace + (1 - kDecay) * now.trace;
    }
    const double nan = std::numeric_limits<double>::quiet_NaN();
    return {{"gradient_noise_scale",
             "",
             {{"scale", average_.squared > 0 ? average_.trace / average_.squared : nan},
              {"gradient_squared", now.squared},
              {"covariance_trace", now.trace}}}};
  }

  void store(std::map<std::string, std::string>& state) const override {
    state[kSquaredKey] = write_exact(average_.squared);
    state[kTraceKey] = write_exact(average_.trace);
  }
  void restore(const std::map<std::string, std::string>& state) override {
    const auto squared = state.find(kSquaredKey), trace = state.find(kTraceKey);
    if (squared == state.end() || trace == state.end()) return;
    average_ = {read_exact(squared->second), read_exact(trace->second)};
  }

 private:
  struct Range {
    FlatRange from;       // in a flat gradient
    std::int64_t to = 0;  // in part_
  };

  /// Sum of squares over this member's share of values that all members hold.
  static double squares_of_share(std::span<const float> values, const Communicator& members) {
    const auto rank = static_cast<std::size_t>(members.rank()), size = static_cast<std::size_t>(members.size());
    const std::size_t begin = values.size() * rank / size, end = values.size() * (rank + 1) / size;
    return sum_of_squares(values.subspan(begin, end - begin));
  }

  ProbeContext context_;
  std::vector<std::vector<Range>> of_layer_;
  std::vector<float> part_;  // this worker's gradient, then its group's
  double big_ = 0;           // squares of this worker's share of the sum
  GradientNoise average_;    // without bias correction, which cancels in the ratio
};

}  // namespace

std::unique_ptr<Probe> make_gradient_noise_probe(const ProbeContext& context) {
  return std::make_unique<GradientNoiseProbe>(context);
}

}  // namespace syncbn
