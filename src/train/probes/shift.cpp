// How far one update moves the distributions of the layers' inputs.

#include <cmath>

#include "train/probes/channel_sums.hpp"
#include "train/probes/probe.hpp"

namespace syncbn {

namespace {

/// The "internal covariate shift" of Ioffe & Szegedy 2015 (arXiv 1502.03167), section 2, which Santurkar et al. 2018
/// (arXiv 1805.11604) dispute: the change of a layer's input distribution that comes from the parameters' change. So
/// both sides are taken from the same batch, forward once more after the update. Per layer, over the channels that
/// are not constant before:
///   mean = average of |mean after - mean before| / std before
///   std  = average of |std after - std before| / std before
class Shift : public Probe {
 public:
  explicit Shift(const ProbeContext& context)
      : context_(context), layers_(select_layers(context.model(), context.options.layers)) {}

  void batch_done(const ProbedUpdate& update) override {
    sums_.clear();
    append_sums(update.pass.n);
  }

  std::vector<Measurement> measure(const ProbedUpdate& update) override {
    // This leaves contributions to running statistics in the gradient, which the next update clears at its start.
    context_.network.forward(update.pass);
    append_sums(update.pass.n);
    context_.all.all_reduce(std::span(sums_), Reduce::sum, {"shift", update.step});
    std::vector<Measurement> rows;
    if (context_.all.rank() != 0) return rows;
    const double* before = sums_.data();
    const double* after = before + sums_.size() / 2;
    for (const int l : layers_) {
      const auto channels = static_cast<std::size_t>(context_.network.input(l).shape.c());
      rows.push_back(row(l, channels, {before, channels}, {after, channels}));
      before += ChannelSums::length(channels);
      after += ChannelSums::length(channels);
    }
    return rows;
  }

 private:
  /// ChannelSums of every layer's input, over this worker's samples.
  void append_sums(std::int64_t n) {
    const ops::BatchNormKernels& kernels = context_.network.backend().batch_norm();
    for (const int l : layers_) {
      const Tensor& x = context_.network.input(l);
      const auto channels = static_cast<std::size_t>(x.shape.c());
      const auto count = static_cast<double>(n * x.shape.spatial());
      pivot_.assign(channels, 0);
      sum_.assign(channels, 0);
      square_.assign(channels, 0);
      if (n > 0) {
        kernels.pivot(x, 0, pivot_.data());
        kernels.sums(x, {0, n}, pivot_.data(), sum_.data(), square_.data());
      }
      sums_.push_back(count);
      for (std::size_t c = 0; c < channels; ++c) sums_.push_back(sum_[c] + count * pivot_[c]);
      for (std::size_t c = 0; c < channels; ++c) {
        sums_.push_back(square_[c] + pivot_[c] * (2 * sum_[c] + count * pivot_[c]));
      }
    }
  }

  Measurement row(int layer, std::size_t channels, const ChannelSums& before, const ChannelSums& after) const {
    ChannelAverage mean, std;
    for (std::size_t c = 0; c < channels; ++c) {
      const double unit = std::sqrt(before.var(c));
      if (unit == 0) continue;
      mean.add(std::abs(after.mean(c) - before.mean(c)) / unit);
      std.add(std::abs(std::sqrt(after.var(c)) - unit) / unit);
    }
    return {"shift", context_.model().layers[layer].name, {{"mean", mean.value()}, {"std", std.value()}}};
  }

  ProbeContext context_;
  std::vector<int> layers_;
  std::vector<double> sums_;  // before the update, then after it
  std::vector<double> pivot_, sum_, square_;
};

}  // namespace

std::unique_ptr<Probe> make_shift_probe(const ProbeContext& context) {
  return std::make_unique<Shift>(context);
}

}  // namespace syncbn
