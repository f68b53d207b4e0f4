#include "train/probes/gradient_noise.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <limits>

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

constexpr double kDecay = 0.9;  // per watched update
constexpr const char* kSquaredKey = "probe.gradient_noise_scale.squared";
constexpr const char* kTraceKey = "probe.gradient_noise_scale.trace";

/// Over the weights and biases of convolutions and linear layers, whose gradients are every worker's own whatever the
/// normalization; normalized weights as the kernels see them. A single update says little: `scale`, too, is the ratio
/// of the two estimates' moving averages, as in appendix A.1.
class GradientNoiseProbe : public Probe {
 public:
  explicit GradientNoiseProbe(const ProbeContext& context) : context_(context) {
    const Model& model = context.model();
    of_layer_.resize(model.layers.size());
    for (int l = 0; l < static_cast<int>(model.layers.size()); ++l) {
      if (is_norm(model.layers[static_cast<std::size_t>(l)].type)) continue;
      for (const int p : {context.state.weight_of(l), context.state.bias_of(l)}) {
        if (p >= 0) of_layer_[static_cast<std::size_t>(l)].push_back(context.state.parameter(p));
      }
    }
  }

  void gradient_ready(int layer) override {
    for (const FlatRange& r : of_layer_[static_cast<std::size_t>(layer)]) {
      own_ += sum_of_squares(
          context_.gradient.subspan(static_cast<std::size_t>(r.offset), static_cast<std::size_t>(r.count)));
    }
  }

  void gradient_summed(std::span<const float> exchanged, std::span<const float>) override {
    // Every worker has the sum; each takes its share of the work.
    const std::int64_t part = context_.all.rank(), parts = context_.all.size();
    for (const auto& ranges : of_layer_) {
      for (const FlatRange& r : ranges) {
        const std::int64_t begin = r.count * part / parts, end = r.count * (part + 1) / parts;
        summed_ += sum_of_squares(
            exchanged.subspan(static_cast<std::size_t>(r.offset + begin), static_cast<std::size_t>(end - begin)));
      }
    }
  }

  std::vector<Measurement> measure(const ProbedUpdate& update) override {
    // The gradients here have been divided by the samples of all workers: n_w / all times the mean of part w.
    const auto all = static_cast<double>(update.all_samples), own = static_cast<double>(update.samples);
    std::array<double, 3> sums{own > 0 ? own_ * all / own : 0, own > 0 ? 1.0 : 0.0, summed_};
    own_ = summed_ = 0;
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
    state[kSquaredKey] = fmt::format("{:a}", average_.squared);
    state[kTraceKey] = fmt::format("{:a}", average_.trace);
  }
  void restore(const std::map<std::string, std::string>& state) override {
    const auto squared = state.find(kSquaredKey), trace = state.find(kTraceKey);
    if (squared == state.end() || trace == state.end()) return;
    average_ = {std::stod(squared->second), std::stod(trace->second)};
  }

 private:
  ProbeContext context_;
  std::vector<std::vector<FlatRange>> of_layer_;
  double own_ = 0, summed_ = 0;  // squares of this worker's gradient; its share of those of the sum
  GradientNoise average_;        // without correction for its start, which the ratio does not see
};

}  // namespace

std::unique_ptr<Probe> make_gradient_noise_probe(const ProbeContext& context) {
  return std::make_unique<GradientNoiseProbe>(context);
}

}  // namespace syncbn
