#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nn/layer.hpp"

namespace syncbn {

/// Population statistics of a layer's input: those of many batches, each weighted by its count ("precise BN", Wu &
/// Johnson 2021, arXiv 2105.07576, section 3). Every worker gathers begin(), add() ...; once sums() has been summed
/// over all workers, finish() gives all of them the same.
class PopulationStatistics {
 public:
  /// Second moments are those of batch normalization, or of channels whitened in groups.
  PopulationStatistics(const LayerContext& context, int layer);

  void begin();
  /// Mean [C] and biased second moments about it ([C], or [C, width]) of a batch of the group with `count` values a
  /// channel. One worker of each group counts.
  void add(std::int64_t count, std::span<const double> mean, std::span<const double> moments);
  /// Count, and sums about zero: in f64 that costs (mean / std)^2 * 2^-53 of a variance, as in a batch's message.
  std::span<double> sums() { return sums_; }
  void finish();

  double count() const { return sums_[0]; }                    ///< values a channel
  std::span<const float> mean() const { return mean_; }        ///< [C]
  std::span<const float> moments() const { return moments_; }  ///< biased variances [C], or covariances [C, width]

 private:
  /// Of the second moment `i`: the channels whose product it is.
  std::size_t row(std::size_t i) const { return i / width_; }
  std::size_t column(std::size_t i) const { return row(i) - row(i) % width_ + i % width_; }

  bool counts_;
  std::size_t channels_, width_;
  std::vector<double> sums_;  // 1, [C], [C, width]
  std::vector<float> mean_, moments_;
};

}  // namespace syncbn
