#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nn/normalization/statistics_pass.hpp"
#include "ops/backend.hpp"

namespace syncbn {

/// Decorrelated batch normalization (Huang et al. 2018, arXiv 1804.08450) of one batch by one worker, in the phases of
/// BatchNormPass. Channels are whitened in groups of `width`: y = gamma * W (x - mean) + beta with the symmetric (ZCA)
/// matrix W = (covariance + eps)^(-1/2); mean and biased covariance are over all samples and positions of all members.
/// With groups of one channel this is batch normalization.
class WhiteningPass : public StatisticsPass {
 public:
  /// `width` divides `channels`. The kernels must outlive the pass.
  WhiteningPass(const ops::Backend& backend, std::string name, std::int64_t channels, std::int64_t width, double eps,
                Communicator group);

  void begin();
  void accumulate(const Tensor& x, ops::Samples samples);
  /// Sends one message of 1 + C + C * (width + 1) / 2 f64: count, sums, products. Collective.
  void start(std::int64_t step);
  /// Derives mean, covariance and W; errors as BatchNormPass::finish(). Collective.
  void finish(std::span<const float> gamma, std::span<const float> beta);
  /// Evaluation: normalizes with given statistics; no message. `cov`: [C / width, width, width].
  void use_statistics(std::span<const float> mean, std::span<const float> cov, std::span<const float> gamma,
                      std::span<const float> beta);
  void apply(const Tensor& x, const Tensor& y, ops::Samples samples) const;

  std::span<const double> cov() const { return cov_; }  ///< [C / width, width, width], biased (/ M), after finish()

  void begin_backward();
  void accumulate_backward(const Tensor& x, const Tensor& dy, ops::Samples samples);
  /// Sends one message of C + C * width f64: sum(dy), sum(dy_i * (x_j - mean_j)). Collective.
  void start_backward(std::int64_t step);
  void finish_backward();
  void apply_backward(const Tensor& x, const Tensor& dy, const Tensor& dx, ops::Samples samples,
                      bool accumulate_dx) const;
  /// Computes d(gamma), d(beta) of this worker or, after finish_backward(), of the group; [C] each.
  void parameter_gradients(bool of_group, std::span<double> d_gamma, std::span<double> d_beta) const;

 private:
  void derive_map(std::span<const float> gamma, std::span<const float> beta);
  void derive_gradient(std::int64_t first);

  const ops::BatchNormKernels* pivots_;
  const ops::WhiteningKernels* kernels_;
  std::int64_t width_;
  std::vector<double> pivot_, sum_, gamma_, shift_, zero_;   // [C]
  std::vector<double> products_, cov_, whitening_, matrix_;  // [C, width]; matrix = gamma * W
  std::vector<double> basis_, eigenvalues_;                  // eigendecomposition of covariance + eps: [C, width], [C]
  std::vector<double> message_;
  std::vector<double> backward_message_;                 // sum(dy), products; this worker's, then the group's
  std::vector<double> local_sums_;                       // sums of this worker alone
  std::vector<double> dy_matrix_, x_matrix_, dx_shift_;  // dx = dy_matrix dy + x_matrix (x - mean) + dx_shift
};

}  // namespace syncbn
