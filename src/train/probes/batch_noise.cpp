// How far the batch statistics of the normalization groups lie from those of all workers' samples together.

#include <cmath>

#include "train/probes/channel_sums.hpp"
#include "train/probes/probe.hpp"

namespace syncbn {

namespace {

/// Per layer, with groups g of n_g values, N = sum of n_g, and mean and var of all N values:
///   mean = average over channels of sum_g n_g/N (mean_g - mean)^2 / var
///   var  = average over channels of sum_g n_g/N (var_g - var)^2 / var^2
/// Neither depends on the scale of the layer. Independent values from one normal distribution in groups of m give about
/// 1/m and 2/m. Channels that are constant but for rounding are left out. After micro-batches: those of the last one.
class BatchNoise : public Probe {
 public:
  explicit BatchNoise(const ProbeContext& context) : context_(context) {
    const std::vector<LayerSpec>& layers = context.model().layers;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      if (shares_statistics(layers[l].type)) layers_.push_back(static_cast<int>(l));
    }
  }

  void batch_done(const ProbedUpdate&) override {
    groups_.clear();
    for (const int l : layers_) groups_.push_back(context_.network.statistics(l));
  }

  std::vector<Measurement> measure(const ProbedUpdate& update) override {
    // Two messages: count, sums and sums of squares; then the deviations from what those say.
    population_.clear();
    for (const BatchStatistics& group : groups_) append_sums(group);
    context_.all.all_reduce(std::span(population_), Reduce::sum, {"batch_noise population", update.step});
    deviations_.clear();
    const double* sums = population_.data();
    for (const BatchStatistics& group : groups_) {
      append_deviations(group, ChannelSums(sums, group.mean.size()));
      sums += ChannelSums::length(group.mean.size());
    }
    context_.all.all_reduce(std::span(deviations_), Reduce::sum, {"batch_noise deviations", update.step});

    std::vector<Measurement> rows;
    if (context_.all.rank() != 0) return rows;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const std::string& name = context_.model().layers[layers_[i]].name;
      rows.push_back({"batch_noise", name, {{"mean", deviations_[2 * i]}, {"var", deviations_[2 * i + 1]}}});
    }
    return rows;
  }

 private:
  double count_of(const BatchStatistics& group) const {
    return context_.group.rank() == 0 ? static_cast<double>(group.count) : 0;
  }

  void append_sums(const BatchStatistics& group) {
    const double n = count_of(group);
    population_.push_back(n);
    for (const double mean : group.mean) population_.push_back(n == 0 ? 0 : n * mean);
    for (std::size_t c = 0; c < group.var.size(); ++c) {
      population_.push_back(n == 0 ? 0 : n * (group.var[c] + group.mean[c] * group.mean[c]));
    }
  }

  void append_deviations(const BatchStatistics& group, const ChannelSums& all) {
    const double share = count_of(group) / all.count();
    ChannelAverage mean, var;
    for (std::size_t c = 0; c < group.mean.size(); ++c) {
      if (all.var(c) == 0) continue;
      mean.add(share == 0 ? 0 : share * std::pow(group.mean[c] - all.mean(c), 2) / all.var(c));
      var.add(share == 0 ? 0 : share * std::pow(group.var[c] / all.var(c) - 1, 2));
    }
    deviations_.push_back(mean.value());
    deviations_.push_back(var.value());
  }

  ProbeContext context_;
  std::vector<int> layers_;
  std::vector<BatchStatistics> groups_;
  std::vector<double> population_, deviations_;
};

}  // namespace

std::unique_ptr<Probe> make_batch_noise_probe(const ProbeContext& context) {
  return std::make_unique<BatchNoise>(context);
}

}  // namespace syncbn
