#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nn/layer.hpp"

namespace syncbn {

/// Population statistics of a layer's input: statistics of many batches, each weighted by its count ("precise BN", Wu &
/// Johnson 2021, arXiv 2105.07576, section 3). Every worker calls begin(), then add() repeatedly; once sums() has been
/// summed over all workers, finish() yields the same statistics on all of them.
class PopulationStatistics {
 public:
  /// The layer's type decides on the second moments: variances for batch normalization, covariances for whitening.
  PopulationStatistics(const LayerContext& context, int layer);

  void begin();
  /// Adds a batch of the group: its mean [C] and biased second moments about the mean ([C], or [C, width]), with
  /// `count` values per channel. Only one worker of each group counts.
  void add(std::int64_t count, std::span<const double> mean, std::span<const double> moments);
  /// Count, and sums about zero: with f64 the relative error of a variance is (mean / std)^2 * 2^-53, as in a batch's
  /// message.
  std::span<double> sums() { return sums_; }
  void finish();

  double count() const { return sums_[0]; }                    ///< values per channel
  std::span<const float> mean() const { return mean_; }        ///< [C]
  std::span<const float> moments() const { return moments_; }  ///< biased variances [C], or covariances [C, width]

 private:
  /// The channels whose product second moment `i` is.
  std::size_t row(std::size_t i) const { return i / width_; }
  std::size_t column(std::size_t i) const { return row(i) - row(i) % width_ + i % width_; }

  bool counts_;
  std::size_t channels_, width_;
  std::vector<double> sums_;  // 1, [C], [C, width]
  std::vector<float> mean_, moments_;
};

}  // namespace syncbn
