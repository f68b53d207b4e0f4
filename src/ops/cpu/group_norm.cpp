#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cpu/factories.hpp"

namespace syncbn::ops::cpu {
namespace {

double at(const float* values, std::int64_t c, double otherwise) {
  return values ? static_cast<double>(values[c]) : otherwise;
}

/// Group normalization: normalizes each sample by the sweeps of batch normalization, with a map of its own.
class CpuGroupNormalization final : public GroupNormalization {
 public:
  CpuGroupNormalization(const BatchNormKernels& kernels, std::int64_t channels, std::int64_t groups, double eps,
                        std::int64_t max_samples);

  void forward(const Tensor& x, const Tensor& add, const Tensor& y, Samples samples, Affine affine, FusedRelu relu,
               std::uint8_t* mask) override;
  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, Samples samples,
                Affine affine, FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx,
                bool accumulate_add) override;
  void add_parameter_gradients(std::int64_t n, float* d_gamma, float* d_beta) override;

 private:
  struct Moments {
    double mean = 0, invstd = 0;
  };
  Moments* moments(std::int64_t sample) { return moments_.data() + sample * groups_; }
  void measure(const Tensor& x, std::int64_t sample);
  void derive_map(std::int64_t sample, Affine affine);
  void derive_gradient(std::int64_t sample, std::int64_t positions, const float* gamma);

  const BatchNormKernels& kernels_;
  std::int64_t channels_, groups_, width_;  // width: channels of a group
  double eps_;
  std::vector<Moments> moments_;              // [sample, group]
  std::vector<double> pivot_, sum_, sum_sq_;  // of one sample
  std::vector<double> sum_dy_, sum_dy_xc_;    // of one sample
  std::vector<double> d_gamma_, d_beta_;      // of all samples since add_parameter_gradients()
  ChannelMap map_;
  GradientMap gradient_;
};

CpuGroupNormalization::CpuGroupNormalization(const BatchNormKernels& kernels, std::int64_t channels,
                                             std::int64_t groups, double eps, std::int64_t max_samples)
    : kernels_(kernels),
      channels_(channels),
      groups_(groups),
      width_(channels / groups),
      eps_(eps),
      moments_(static_cast<std::size_t>(max_samples * groups)),
      map_(channels),
      gradient_(channels) {
  for (auto* array : {&pivot_, &sum_, &sum_sq_, &sum_dy_, &sum_dy_xc_, &d_gamma_, &d_beta_}) {
    array->assign(static_cast<std::size_t>(channels), 0);
  }
}

// The moments of a group's channels, each about its own pivot, are merged (Chan, Golub & LeVeque 1983).
void CpuGroupNormalization::measure(const Tensor& x, std::int64_t sample) {
  kernels_.pivot(x, sample, pivot_.data());
  std::fill(sum_.begin(), sum_.end(), 0);
  std::fill(sum_sq_.begin(), sum_sq_.end(), 0);
  kernels_.sums(x, {sample, sample + 1}, pivot_.data(), sum_.data(), sum_sq_.data());
  const auto n = static_cast<double>(x.shape.spatial());
  const auto width = static_cast<double>(width_);
  for (std::int64_t g = 0; g < groups_; ++g) {
    const auto begin = static_cast<std::size_t>(g * width_), end = begin + static_cast<std::size_t>(width_);
    double mean = 0, squares = 0;
    for (std::size_t c = begin; c < end; ++c) mean += (pivot_[c] + sum_[c] / n) / width;
    for (std::size_t c = begin; c < end; ++c) {
      const double shift = sum_[c] / n, between = pivot_[c] + shift - mean;
      const double within = sum_sq_[c] - sum_[c] * shift;
      squares += (within < 0 ? 0 : within) + n * between * between;  // NaN stays NaN
    }
    moments(sample)[g] = {mean, 1 / std::sqrt(squares / (n * width) + eps_)};
  }
}

void CpuGroupNormalization::derive_map(std::int64_t sample, Affine affine) {
  for (std::int64_t c = 0; c < channels_; ++c) {
    const Moments& m = moments(sample)[c / width_];
    const auto i = static_cast<std::size_t>(c);
    map_.center[i] = m.mean;
    map_.scale[i] = at(affine.gamma, c, 1) * m.invstd;
    map_.shift[i] = at(affine.beta, c, 0);
  }
  map_.round();
}

void CpuGroupNormalization::forward(const Tensor& x, const Tensor& add, const Tensor& y, Samples samples, Affine affine,
                                    FusedRelu relu, std::uint8_t* mask) {
  for (std::int64_t n = samples.begin; n < samples.end; ++n) {
    measure(x, n);
    derive_map(n, affine);
    kernels_.apply(x, add, y, {n, n + 1}, map_, relu, mask);
  }
}

// With g = gamma * dy, and A = sum(g), B = sum(g * (x - mean)) over the M values of the group:
// dx = invstd * (g - A / M - (x - mean) * invstd^2 * B / M)
void CpuGroupNormalization::derive_gradient(std::int64_t sample, std::int64_t positions, const float* gamma) {
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

void CpuGroupNormalization::backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add,
                                     Samples samples, Affine affine, FusedRelu relu, const std::uint8_t* mask,
                                     bool accumulate_dx, bool accumulate_add) {
  for (std::int64_t n = samples.begin; n < samples.end; ++n) {
    derive_map(n, affine);
    std::fill(sum_dy_.begin(), sum_dy_.end(), 0);
    std::fill(sum_dy_xc_.begin(), sum_dy_xc_.end(), 0);
    kernels_.backward_sums(x, dy, {n, n + 1}, map_, relu, mask, sum_dy_.data(), sum_dy_xc_.data());
    for (std::int64_t c = 0; c < channels_; ++c) {
      const auto i = static_cast<std::size_t>(c);
      d_gamma_[i] += sum_dy_xc_[i] * moments(n)[c / width_].invstd;
      d_beta_[i] += sum_dy_[i];
    }
    if (!dx && !d_add) continue;
    derive_gradient(n, x.shape.spatial(), affine.gamma);
    kernels_.backward(x, dy, dx, d_add, {n, n + 1}, map_, relu, mask, gradient_, accumulate_dx, accumulate_add);
  }
}

void CpuGroupNormalization::add_parameter_gradients(std::int64_t, float* d_gamma, float* d_beta) {
  const auto take = [](std::vector<double>& sums, float* gradient) {
    for (std::size_t c = 0; gradient && c < sums.size(); ++c) gradient[c] += static_cast<float>(sums[c]);
    std::fill(sums.begin(), sums.end(), 0);
  };
  take(d_gamma_, d_gamma);
  take(d_beta_, d_beta);
}

}  // namespace

std::unique_ptr<GroupNormalization> make_group_normalization(const BatchNormKernels& kernels, std::int64_t channels,
                                                             std::int64_t groups, double eps,
                                                             std::int64_t max_samples) {
  return std::make_unique<CpuGroupNormalization>(kernels, channels, groups, eps, max_samples);
}

}  // namespace syncbn::ops::cpu
