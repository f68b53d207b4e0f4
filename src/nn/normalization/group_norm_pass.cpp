#include "nn/normalization/group_norm_pass.hpp"

#include <algorithm>
#include <cmath>

#include "core/round_up.hpp"

namespace syncbn {

namespace {

// Long enough for every layout.
std::int64_t padded(std::int64_t channels) {
  return round_up<std::int64_t>(channels, 16);
}

double at(std::span<const float> values, std::int64_t c, double otherwise) {
  return values.empty() ? otherwise : static_cast<double>(values[c]);
}

}  // namespace

GroupNormPass::GroupNormPass(const ops::BatchNormKernels& kernels, std::int64_t channels, std::int64_t groups,
                             double eps, std::int64_t max_samples)
    : kernels_(&kernels),
      channels_(channels),
      groups_(groups),
      width_(channels / groups),
      eps_(eps),
      moments_(static_cast<std::size_t>(max_samples * groups)),
      map_(padded(channels)),
      gradient_(padded(channels)) {
  for (auto* array : {&pivot_, &sum_, &sum_sq_, &sum_dy_, &sum_dy_xc_, &d_gamma_, &d_beta_}) {
    array->assign(static_cast<std::size_t>(channels), 0);
  }
}

// The moments of a group's channels, each about a pivot of its own, are merged (Chan, Golub & LeVeque 1983).
void GroupNormPass::measure(const Tensor& x, std::int64_t sample) {
  kernels_->pivot(x, sample, pivot_.data());
  std::fill(sum_.begin(), sum_.end(), 0);
  std::fill(sum_sq_.begin(), sum_sq_.end(), 0);
  kernels_->sums(x, {sample, sample + 1}, pivot_.data(), sum_.data(), sum_sq_.data());
  const auto n = static_cast<double>(x.shape.spatial());
  const auto width = static_cast<double>(width_);
  for (std::int64_t g = 0; g < groups_; ++g) {
    const auto begin = static_cast<std::size_t>(g * width_), end = begin + static_cast<std::size_t>(width_);
    double mean = 0, squares = 0;
    for (std::size_t c = begin; c < end; ++c) mean += (pivot_[c] + sum_[c] / n) / width;
    for (std::size_t c = begin; c < end; ++c) {
      const double shift = sum_[c] / n, between = pivot_[c] + shift - mean;
      const double within = sum_sq_[c] - sum_[c] * shift;
      squares += (within < 0 ? 0 : within) + n * between * between;  // a NaN stays one
    }
    moments(sample)[g] = {mean, 1 / std::sqrt(squares / (n * width) + eps_)};
  }
}

void GroupNormPass::derive_map(std::int64_t sample, std::span<const float> gamma, std::span<const float> beta) {
  for (std::int64_t c = 0; c < channels_; ++c) {
    const Moments& m = moments(sample)[c / width_];
    const auto i = static_cast<std::size_t>(c);
    map_.center[i] = m.mean;
    map_.scale[i] = at(gamma, c, 1) * m.invstd;
    map_.shift[i] = at(beta, c, 0);
  }
  map_.round();
}

void GroupNormPass::forward(const Tensor& x, const Tensor& add, const Tensor& y, ops::Samples samples,
                            std::span<const float> gamma, std::span<const float> beta, ops::FusedRelu relu,
                            std::uint8_t* mask) {
  for (std::int64_t n = samples.begin; n < samples.end; ++n) {
    measure(x, n);
    derive_map(n, gamma, beta);
    kernels_->apply(x, add, y, {n, n + 1}, map_, relu, mask);
  }
}

void GroupNormPass::begin_backward() {
  std::fill(d_gamma_.begin(), d_gamma_.end(), 0);
  std::fill(d_beta_.begin(), d_beta_.end(), 0);
}

// With g = gamma * dy, and A = sum(g), B = sum(g * (x - mean)) over the M values of the group:
// dx = invstd * (g - A / M - (x - mean) * invstd^2 * B / M)
void GroupNormPass::derive_gradient(std::int64_t sample, std::int64_t positions, std::span<const float> gamma) {
  const auto m = static_cast<double>(width_ * positions);
  for (std::int64_t g = 0; g < groups_; ++g) {
    double a = 0, b = 0;
    for (std::int64_t c = g * width_; c < (g + 1) * width_; ++c) {
      const auto i = static_cast<std::size_t>(c);
      a += at(gamma, c, 1) * sum_dy_[i];
      b += at(gamma, c, 1) * sum_dy_xc_[i];
    }
    const double invstd = moments(sample)[g].invstd;
    for (std::int64_t c = g * width_; c < (g + 1) * width_; ++c) {
      const auto i = static_cast<std::size_t>(c);
      gradient_.p[i] = map_.scale[i];
      gradient_.q[i] = -invstd * invstd * invstd * b / m;
      gradient_.r[i] = -invstd * a / m;
    }
  }
  gradient_.round(map_);
}

void GroupNormPass::backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add,
                             ops::Samples samples, std::span<const float> gamma, std::span<const float> beta,
                             ops::FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) {
  for (std::int64_t n = samples.begin; n < samples.end; ++n) {
    derive_map(n, gamma, beta);
    std::fill(sum_dy_.begin(), sum_dy_.end(), 0);
    std::fill(sum_dy_xc_.begin(), sum_dy_xc_.end(), 0);
    kernels_->backward_sums(x, dy, {n, n + 1}, map_, relu, mask, sum_dy_.data(), sum_dy_xc_.data());
    for (std::int64_t c = 0; c < channels_; ++c) {
      const auto i = static_cast<std::size_t>(c);
      d_gamma_[i] += sum_dy_xc_[i] * moments(n)[c / width_].invstd;
      d_beta_[i] += sum_dy_[i];
    }
    if (!dx && !d_add) continue;
    derive_gradient(n, x.shape.spatial(), gamma);
    kernels_->backward(x, dy, dx, d_add, {n, n + 1}, map_, relu, mask, gradient_, accumulate_dx, accumulate_add);
  }
}

}  // namespace syncbn
