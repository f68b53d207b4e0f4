#pragma once

#include <cstddef>
#include <limits>

#include "nn/normalization/variance.hpp"

namespace syncbn {

/// One layer's statistics in the form in which workers add them up: values per channel, then per channel their sum,
/// then the sum of their squares; 1 + 2C numbers.
class ChannelSums {
 public:
  ChannelSums(const double* sums, std::size_t channels) : sums_(sums), channels_(channels) {}
  static std::size_t length(std::size_t channels) { return 1 + 2 * channels; }

  double count() const { return sums_[0]; }
  double mean(std::size_t c) const { return sums_[1 + c] / sums_[0]; }
  /// Biased variance; 0 if it is so small that it may be rounding error.
  double var(std::size_t c) const { return variance(mean(c), sums_[1 + channels_ + c] / sums_[0]); }

 private:
  const double* sums_;
  std::size_t channels_;
};

/// An average over the channels that have a value; NaN if none has.
class ChannelAverage {
 public:
  void add(double value) {
    sum_ += value;
    ++count_;
  }
  double value() const { return count_ > 0 ? sum_ / count_ : std::numeric_limits<double>::quiet_NaN(); }

 private:
  double sum_ = 0;
  int count_ = 0;
};

}  // namespace syncbn
