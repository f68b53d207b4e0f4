#include "nn/normalization/batch_norm_pass.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "nn/normalization/variance.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

BatchNormPass::BatchNormPass(const ops::BatchNormKernels& kernels, std::string name, std::int64_t channels, double eps,
                             Communicator group)
    : StatisticsPass("batch_norm", std::move(name), channels, eps, std::move(group)),
      kernels_(&kernels),
      map_(channels),
      gradient_(channels) {
  const auto c = static_cast<std::size_t>(channels);
  for (auto* array : {&pivot_, &sum_, &sum_sq_, &var_, &invstd_, &sum_dy_, &sum_dy_xc_}) array->assign(c, 0);
  correction_.resize(c);
  message_.assign(1 + 2 * c, 0);
  backward_message_.assign(2 * c, 0);
}

void BatchNormPass::begin() {
  local_count_ = 0;
  has_pivot_ = false;
  for (auto* array : {&pivot_, &sum_, &sum_sq_}) std::fill(array->begin(), array->end(), 0);
}

void BatchNormPass::accumulate(const Tensor& x, ops::Samples samples) {
  const std::int64_t values = samples.count() * x.shape.spatial();
  if (values == 0) return;
  if (!has_pivot_) {
    kernels_->pivot(x, samples.begin, pivot_.data());
    has_pivot_ = true;
  }
  kernels_->sums(x, samples, pivot_.data(), sum_.data(), sum_sq_.data());
  local_count_ += values;
}

// The workers' pivots differ, so sums in the message are about zero: n * mean and sum((x - mean)^2) + n * mean^2. With
// f64 the relative error of the variance is (mean / std)^2 * 2^-53: 1e-8 at 1e4 standard deviations. The count is exact
// up to 2^53.
void BatchNormPass::start(std::int64_t step) {
  const auto n = static_cast<double>(local_count_);
  double* sums = message_.data() + 1;
  double* squares = sums + channels_;
  message_[0] = n;
  for (std::int64_t c = 0; c < channels_; ++c) {
    const auto i = static_cast<std::size_t>(c);
    const double shift = local_count_ ? sum_[i] / n : 0;
    const double mean = pivot_[i] + shift;
    const double m2 = sum_sq_[i] - sum_[i] * shift;
    sums[c] = n * mean;
    squares[c] = (m2 < 0 ? 0 : m2) + n * mean * mean;  // NaN stays NaN
  }
  start_contribution(message_, step);
}

void BatchNormPass::finish(std::span<const float> weight, std::span<const float> bias,
                           const std::optional<RenormReference>& renorm) {
  finish_all_reduce();
  from_batch_ = true;
  count_ = std::llround(message_[0]);
  const double m = count_ ? message_[0] : 1;
  const double* sums = message_.data() + 1;
  const double* squares = sums + channels_;
  for (std::int64_t c = 0; c < channels_; ++c) {
    const auto i = static_cast<std::size_t>(c);
    const double mean = sums[c] / m;
    mean_[i] = mean;
    var_[i] = variance(mean, squares[c] / m);
  }
  if (count_ == 0) {
    invstd_.assign(invstd_.size(), 0);
    map_ = ops::ChannelMap(channels_);
    gradient_ = ops::GradientMap(channels_);
    return;
  }
  derive_map(weight, bias, renorm);
}

void BatchNormPass::use_statistics(std::span<const float> mean, std::span<const float> var,
                                   std::span<const float> weight, std::span<const float> bias) {
  from_batch_ = false;
  count_ = 0;
  std::copy_n(mean.begin(), channels_, mean_.begin());
  std::copy_n(var.begin(), channels_, var_.begin());
  derive_map(weight, bias, std::nullopt);
  std::copy_n(map_.scale.begin(), channels_, gradient_.p.begin());
  std::fill(gradient_.q.begin(), gradient_.q.end(), 0);
  std::fill(gradient_.r.begin(), gradient_.r.end(), 0);
  gradient_.round(map_);
}

// y = (x - mean) * invstd * r * gamma + (d * gamma + beta), with r = 1 and d = 0 unless renormalized
void BatchNormPass::derive_map(std::span<const float> weight, std::span<const float> bias,
                               const std::optional<RenormReference>& renorm) {
  for (std::int64_t c = 0; c < channels_; ++c) {
    const auto i = static_cast<std::size_t>(c);
    if (var_[i] + eps_ <= 0) {
      throw Error(fmt::format("{}channel {} has variance {} and eps is {}: nothing to divide by; use eps > 0", where(),
                              c, var_[i], eps_));
    }
    invstd_[i] = 1 / std::sqrt(var_[i] + eps_);
    correction_[i] = renorm ? renorm_correction(*renorm, i, mean_[i], 1 / invstd_[i], eps_) : RenormCorrection{};
    const double gamma = weight.empty() ? 1 : static_cast<double>(weight[i]);
    map_.center[i] = mean_[i];
    map_.scale[i] = gamma * (invstd_[i] * correction_[i].r);
    map_.shift[i] = (bias.empty() ? 0 : static_cast<double>(bias[i])) + gamma * correction_[i].d;
  }
  map_.round();
}

void BatchNormPass::apply(const Tensor& x, const Tensor& add, const Tensor& y, ops::Samples samples,
                          ops::FusedRelu relu, std::uint8_t* mask) const {
  if (samples.count() > 0) kernels_->apply(x, add, y, samples, map_, relu, mask);
}

void BatchNormPass::begin_backward() {
  std::fill(sum_dy_.begin(), sum_dy_.end(), 0);
  std::fill(sum_dy_xc_.begin(), sum_dy_xc_.end(), 0);
}

void BatchNormPass::accumulate_backward(const Tensor& x, const Tensor& dy, ops::Samples samples, ops::FusedRelu relu,
                                        const std::uint8_t* mask) {
  if (samples.count() == 0) return;
  kernels_->backward_sums(x, dy, samples, map_, relu, mask, sum_dy_.data(), sum_dy_xc_.data());
}

void BatchNormPass::start_backward(std::int64_t step) {
  std::copy(sum_dy_.begin(), sum_dy_.end(), backward_message_.begin());
  std::copy(sum_dy_xc_.begin(), sum_dy_xc_.end(), backward_message_.begin() + channels_);
  start_all_reduce(backward_message_, step);
}

// dx = r * gamma * invstd * (dy - A / M - (x - mean) * invstd^2 * B / M)
void BatchNormPass::finish_backward() {
  finish_all_reduce();
  if (count_ == 0) return;
  const double* a = backward_message_.data();
  const double* b = a + channels_;
  const auto m = static_cast<double>(count_);
  for (std::int64_t c = 0; c < channels_; ++c) {
    const auto i = static_cast<std::size_t>(c);
    const double p = map_.scale[i];
    gradient_.p[i] = p;
    gradient_.q[i] = -p * invstd_[i] * invstd_[i] * b[c] / m;
    gradient_.r[i] = -p * a[c] / m;
  }
  gradient_.round(map_);
}

void BatchNormPass::parameter_gradients(bool of_group, std::span<double> d_weight, std::span<double> d_bias) const {
  const double* a = of_group ? backward_message_.data() : sum_dy_.data();
  const double* b = of_group ? a + channels_ : sum_dy_xc_.data();
  for (std::int64_t c = 0; c < channels_; ++c) {
    const auto i = static_cast<std::size_t>(c);
    d_weight[i] = b[c] * (invstd_[i] * correction_[i].r) + a[c] * correction_[i].d;
    d_bias[i] = a[c];
  }
}

void BatchNormPass::apply_backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add,
                                   ops::Samples samples, ops::FusedRelu relu, const std::uint8_t* mask,
                                   bool accumulate_dx, bool accumulate_add) const {
  if (samples.count() == 0) return;
  kernels_->backward(x, dy, dx, d_add, samples, map_, relu, mask, gradient_, accumulate_dx, accumulate_add);
}

}  // namespace syncbn
