// Percentiles and saturation of the layers' inputs.

#include <algorithm>
#include <cmath>
#include <limits>

#include "nn/host_copy.hpp"
#include "syncbn/core/random.hpp"
#include "train/probes/probe.hpp"

namespace syncbn {

namespace {

constexpr std::int64_t kValues = 4096;  // of each layer
// The inputs at which a sigmoid or tanh comes within 2 % of an end of its range: tanh(x) = 2 sigmoid(2 x) - 1.
const double kSigmoidSaturates = std::log(0.98 / 0.02);
const double kTanhSaturates = kSigmoidSaturates / 2;

/// Percentile of sorted values, with linear interpolation between them as NumPy does by default.
double percentile(std::span<const float> sorted, double percent) {
  const double at = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double low = sorted[below];
  return low + (at - static_cast<double>(below)) * (sorted[above] - low);
}

/// Offset of value `index` (counted channels first) in the memory of its sample.
std::int64_t offset_in_sample(const Tensor& x, std::int64_t index) {
  const std::int64_t spatial = x.shape.spatial(), channel = index / spatial, position = index % spatial;
  if (x.layout == Layout::channels_last) return position * x.shape.c() + channel;
  const std::int64_t block = block_of(x.layout);
  return (channel / block * spatial + position) * block + channel % block;
}

/// Figure 1 of the batch normalization paper (Ioffe & Szegedy 2015, arXiv 1502.03167) for any layer: p15, p50 and p85
/// of its inputs, over some of the batch's samples and the same units in all of the run. `saturated`: the share of
/// inputs at which a sigmoid or tanh layer is within 2 % of the ends of its range, and a ReLU's that are not positive;
/// of layers that read a ReLU the share of zeros. With one unit and a large batch it is the paper's figure.
class Activations : public Probe {
 public:
  explicit Activations(const ProbeContext& context)
      : context_(context),
        layers_(select_layers(context.model(), context.options.layers)),
        host_copy_(context.network.backend()) {
    for (const int l : layers_) units_.push_back(choose_units(l));
  }

  void batch_done(const ProbedUpdate& update) override {
    const std::int64_t all = update.pass.batch_samples;
    values_.clear();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const std::int64_t samples = samples_of(i, all);
      // Spread over the batch of all workers: it does not matter where one worker ends and the next begins.
      for (std::int64_t s = 0; s < samples; ++s) append_values(i, s * all / samples - update.first, update.pass.n);
    }
  }

  std::vector<Measurement> measure(const ProbedUpdate& update) override {
    // Each value is one worker's and 0 on the others: the sum brings them together unchanged.
    context_.all.all_reduce(std::span(values_), Reduce::sum, {"activations", update.step});
    std::vector<Measurement> rows;
    if (context_.all.rank() != 0) return rows;
    float* next = values_.data();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const auto samples = static_cast<std::size_t>(samples_of(i, update.pass.batch_samples));
      const std::span<float> inputs(next, samples * units_[i].size());
      rows.push_back(row(layers_[i], inputs));
      next += inputs.size();
    }
    return rows;
  }

 private:
  const LayerSpec& spec(int layer) const { return context_.model().layers[layer]; }

  std::int64_t samples_of(std::size_t i, std::int64_t all) const {
    return std::min(all, kValues / static_cast<std::int64_t>(units_[i].size()));
  }

  /// One unit from each of so many equal stretches of the layer's inputs; a function of the layer's name alone.
  std::vector<std::int64_t> choose_units(int layer) const {
    const std::int64_t inputs = spec(spec(layer).input).output.elements();
    const std::int64_t count = std::min(inputs, context_.options.units);
    Random random(0, Purpose::probe, hash_name(spec(layer).name));
    std::vector<std::int64_t> units;
    for (std::int64_t u = 0; u < count; ++u) {
      const std::int64_t begin = u * inputs / count, end = (u + 1) * inputs / count;
      units.push_back(begin + static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(end - begin))));
    }
    return units;
  }

  /// The chosen units of the i-th layer in the sample with this number; zeros if the sample is another worker's.
  void append_values(std::size_t i, std::int64_t sample, std::int64_t n) {
    if (sample < 0 || sample >= n) {
      values_.insert(values_.end(), units_[i].size(), 0.0f);
      return;
    }
    const Tensor& x = context_.network.input(layers_[i]);
    const Tensor one = host_copy_(x, {sample, sample + 1});
    for (const std::int64_t u : units_[i]) values_.push_back(one.sample(0)[offset_in_sample(x, u)]);
  }

  Measurement row(int layer, std::span<float> inputs) const {
    Measurement result{"activations", spec(layer).name, {}};
    const bool finite = std::all_of(inputs.begin(), inputs.end(), [](float v) { return std::isfinite(v); });
    if (finite) std::sort(inputs.begin(), inputs.end());
    for (const auto& [name, percent] : {std::pair("p15", 15.0), std::pair("p50", 50.0), std::pair("p85", 85.0)}) {
      result.values.emplace_back(name, finite ? percentile(inputs, percent) : std::numeric_limits<double>::quiet_NaN());
    }
    result.values.emplace_back("saturated", saturated_share(layer, inputs));
    return result;
  }

  /// NaN where nothing can saturate.
  double saturated_share(int layer, std::span<const float> inputs) const {
    const LayerSpec& before = spec(spec(layer).input);
    const auto share = [&](auto saturated) {
      return static_cast<double>(std::count_if(inputs.begin(), inputs.end(), saturated)) /
             static_cast<double>(inputs.size());
    };
    switch (spec(layer).type) {
      case LayerType::sigmoid:
        return share([](double x) { return std::abs(x) > kSigmoidSaturates; });
      case LayerType::tanh:
        return share([](double x) { return std::abs(x) > kTanhSaturates; });
      case LayerType::relu:
        return share([](double x) { return x <= 0; });
      default:
        if (before.type != LayerType::relu && !before.fused_relu) return std::numeric_limits<double>::quiet_NaN();
        return share([](double x) { return x == 0; });
    }
  }

  ProbeContext context_;
  std::vector<int> layers_;
  std::vector<std::vector<std::int64_t>> units_;  // of each layer
  std::vector<float> values_;
  HostCopy host_copy_;
};

}  // namespace

std::unique_ptr<Probe> make_activations_probe(const ProbeContext& context) {
  return std::make_unique<Activations>(context);
}

}  // namespace syncbn
