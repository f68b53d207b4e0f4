#include "nn/normalization/population_statistics.hpp"

#include <algorithm>

#include "nn/normalization/variance.hpp"

namespace syncbn {

PopulationStatistics::PopulationStatistics(const LayerContext& context, int layer)
    : counts_(context.group.rank() == 0), channels_(static_cast<std::size_t>(context.spec(layer).output.c())) {
  const bool whitened = context.spec(layer).type == LayerType::whitening;
  width_ = whitened ? channels_ / static_cast<std::size_t>(context.spec(layer).groups) : 1;
  sums_.resize(1 + channels_ * (1 + width_));
  mean_.resize(channels_);
  moments_.resize(channels_ * width_);
}

void PopulationStatistics::begin() {
  std::fill(sums_.begin(), sums_.end(), 0);
}

void PopulationStatistics::add(std::int64_t count, std::span<const double> mean, std::span<const double> moments) {
  if (!counts_ || count == 0) return;
  const auto n = static_cast<double>(count);
  double* sum = sums_.data();
  *sum++ += n;
  for (const double m : mean) *sum++ += n * m;
  for (std::size_t i = 0; i < moments.size(); ++i) *sum++ += n * (moments[i] + mean[row(i)] * mean[column(i)]);
}

void PopulationStatistics::finish() {
  const double n = sums_[0];
  const double *sums = sums_.data() + 1, *products = sums + channels_;
  for (std::size_t c = 0; c < channels_; ++c) mean_[c] = static_cast<float>(sums[c] / n);
  for (std::size_t i = 0; i < moments_.size(); ++i) {
    const double a = sums[row(i)] / n, b = sums[column(i)] / n, product = products[i] / n;
    moments_[i] = static_cast<float>(row(i) == column(i) ? variance(a, product) : product - a * b);
  }
}

}  // namespace syncbn
