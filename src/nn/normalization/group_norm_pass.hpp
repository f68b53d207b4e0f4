#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/backend.hpp"

namespace syncbn {

/// Group normalization (Wu & He 2018, arXiv 1803.08494) of one worker's samples: y = gamma * (x - mean) / sqrt(var +
/// eps)
/// + beta, with mean and biased var over the channels of a group and all positions of one sample; gamma and beta per
/// channel. One group: layer normalization; as many groups as channels: instance normalization. Sends no messages. A
/// sample is normalized by the sweeps of batch normalization, with a map of its own.
class GroupNormPass {
 public:
  /// `groups` divides `channels`; the kernels must outlive the pass.
  GroupNormPass(const ops::BatchNormKernels& kernels, std::int64_t channels, std::int64_t groups, double eps,
                std::int64_t max_samples);

  /// Empty spans mean gamma = 1, beta = 0, here and below. See BatchNormKernels for the tensors and the mask.
  void forward(const Tensor& x, const Tensor& add, const Tensor& y, ops::Samples samples, std::span<const float> gamma,
               std::span<const float> beta, ops::FusedRelu relu, std::uint8_t* mask);

  void begin_backward();
  /// Writes dx and d_add (either may be absent) of samples that forward() has seen, and adds up d(gamma) and d(beta).
  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, ops::Samples samples,
                std::span<const float> gamma, std::span<const float> beta, ops::FusedRelu relu,
                const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add);
  /// This worker's sums since begin_backward(); [C] each.
  std::span<const double> d_gamma() const { return d_gamma_; }
  std::span<const double> d_beta() const { return d_beta_; }

 private:
  struct Moments {
    double mean = 0, invstd = 0;
  };
  Moments* moments(std::int64_t sample) { return moments_.data() + sample * groups_; }
  void measure(const Tensor& x, std::int64_t sample);
  void derive_map(std::int64_t sample, std::span<const float> gamma, std::span<const float> beta);
  void derive_gradient(std::int64_t sample, std::int64_t positions, std::span<const float> gamma);

  const ops::BatchNormKernels* kernels_;
  std::int64_t channels_, groups_, width_;  // width: channels of a group
  double eps_;
  std::vector<Moments> moments_;              // [sample, group]
  std::vector<double> pivot_, sum_, sum_sq_;  // of one sample
  std::vector<double> sum_dy_, sum_dy_xc_;    // of one sample
  std::vector<double> d_gamma_, d_beta_;
  ops::ChannelMap map_;
  ops::GradientMap gradient_;
};

}  // namespace syncbn
