#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nn/normalization/batch_renorm.hpp"
#include "nn/normalization/statistics_pass.hpp"
#include "ops/backend.hpp"

namespace syncbn {

/// The normalization of one batch by one worker, split into phases, between which a caller may go through the samples
/// one by one or do other work while a message is under way. BatchNorm runs them in sequence; Network spreads them over
/// its stretches.
///
/// Forward, training: begin, accumulate over all samples, start, finish, apply over all samples.
/// Forward, evaluation: use_statistics, apply.
/// Backward: begin_backward, accumulate_backward, start_backward, finish_backward, apply_backward; after
/// use_statistics() without start_backward and finish_backward.
class BatchNormPass : public StatisticsPass {
 public:
  /// The kernels must outlive the pass.
  BatchNormPass(const ops::BatchNormKernels& kernels, std::string name, std::int64_t channels, double eps,
                Communicator group);

  // ---- forward ----
  void begin();
  /// Adds samples of x to this worker's count, sum and squared sum.
  void accumulate(const Tensor& x, ops::Samples samples);
  /// Sends this worker's partial sums: one message of 1 + 2C f64 (count, sums, sums of squares). Collective.
  void start(std::int64_t step);
  /// Waits for the group's sums and derives mean, var and the map. Empty spans mean gamma = 1, beta = 0. Collective.
  /// Throws on all members alike when a variance of 0 meets eps = 0. A count of 0 is no error: mean, var and the map
  /// are then zero. NaN and infinities spread to all members. With a `renorm`, the map is that of batch
  /// renormalization.
  void finish(std::span<const float> weight, std::span<const float> bias,
              const std::optional<RenormReference>& renorm = std::nullopt);
  /// Evaluation: normalizes with given statistics. No message.
  void use_statistics(std::span<const float> mean, std::span<const float> var, std::span<const float> weight,
                      std::span<const float> bias);
  void apply(const Tensor& x, const Tensor& add, const Tensor& y, ops::Samples samples, ops::FusedRelu relu,
             std::uint8_t* mask) const;

  std::span<const double> var() const { return var_; }        ///< [C], biased (/ M), after finish()
  bool uses_batch_statistics() const { return from_batch_; }  ///< whether finish() came last, not use_statistics()

  // ---- backward ----
  void begin_backward();
  void accumulate_backward(const Tensor& x, const Tensor& dy, ops::Samples samples, ops::FusedRelu relu,
                           const std::uint8_t* mask);
  /// Sends A and B: one message of 2C f64. Collective. Not to be called after use_statistics().
  void start_backward(std::int64_t step);
  void finish_backward();
  /// Computes d(beta) = A and d(gamma) = B * invstd (renormalized: r * B * invstd + d * A), [C] each: this worker's
  /// share or, after finish_backward(), the group's.
  void parameter_gradients(bool of_group, std::span<double> d_weight, std::span<double> d_bias) const;
  void apply_backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, ops::Samples samples,
                      ops::FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) const;

 private:
  void derive_map(std::span<const float> weight, std::span<const float> bias,
                  const std::optional<RenormReference>& renorm);

  const ops::BatchNormKernels* kernels_;
  bool from_batch_ = false;  // else dx has no statistics terms
  std::vector<RenormCorrection> correction_;
  std::vector<double> pivot_, sum_, sum_sq_, message_, var_, invstd_;
  std::vector<double> sum_dy_, sum_dy_xc_, backward_message_;
  ops::ChannelMap map_;
  ops::GradientMap gradient_;
};

}  // namespace syncbn
