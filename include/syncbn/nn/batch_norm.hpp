#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "syncbn/comm/communicator.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn {

struct BatchNormOptions {
  double eps = 1e-5;        ///< >= 0; with 0, a channel of zero variance is an error
  double momentum = 0.1;    ///< weight of the NEW value in the running statistics, in [0, 1], as in PyTorch
  bool cumulative = false;  ///< running statistics are the plain mean over all batches (momentum = 1 / batches tracked)
  bool affine = true;       ///< learn gamma (weight) and beta (bias)
  bool track_running_stats = true;  ///< without them, evaluation uses the batch's statistics, too
};

enum class Mode { train, eval };

/// Batch normalization over [N, C, spatial...] whose batch statistics are shared by the members of a Communicator.
///
///   y = gamma * (x - mean) / sqrt(var + eps) + beta        (+ add) (then ReLU)
///
/// mean and (biased) var are per channel, over all samples and positions of all members (Ioffe & Szegedy 2015, arXiv
/// 1502.03167, algorithm 1). A communicator of one worker gives local batch norm, one of all workers synchronized batch
/// norm; groups are in between. Members may have different numbers of samples, including none, and different spatial
/// sizes. In training, forward exchanges one message and backward one; evaluation with running statistics exchanges
/// none.
///
/// Takes f32, f64, f16 and bf16 in any layout; parameters and statistics are f32 (f64 inside). One object per worker;
/// not thread-safe. Several forward calls may precede their backward calls: what backward needs is kept in a Context.
class BatchNorm {
 public:
  /// The data that forward keeps for backward. Can be reused, also with another layer, and then reuses its memory.
  class Context;

  /// `name` appears in every message and error ("layer1.0.bn1"). Initially gamma is 1, beta 0, mean 0, variance 1.
  /// Throws Error(usage) unless C >= 1, eps >= 0 and momentum is in [0, 1].
  BatchNorm(std::string name, std::int64_t channels, const BatchNormOptions& options, Communicator group);
  ~BatchNorm();
  BatchNorm(BatchNorm&&) noexcept;  ///< a moved-from layer can only be destroyed or assigned to
  BatchNorm& operator=(BatchNorm&&) noexcept;

  static std::shared_ptr<Context> make_context();

  struct Fused {
    const Tensor* add = nullptr;  ///< residual of x's shape and layout, added before the ReLU
    bool relu = false;
  };

  /// Computes y = normalize(x); y has x's shape, type and layout and does not overlap x. In training this is
  /// *collective* over the group and updates the running statistics. Throws on all members alike when the group holds
  /// just one value per channel (M = 1), and when a variance of 0 meets eps = 0. If members disagree on the mode, the
  /// communicator reports a mismatch or a time-out. If no member has samples, the running statistics stay unchanged and
  /// nothing is written. NaN and infinities spread to all members. Throws Error(usage), before anything is sent, when a
  /// tensor does not fit.
  void forward(Mode mode, const Tensor& x, const Tensor& y, Context& context, Fused fused, std::int64_t step = 0);
  void forward(Mode mode, const Tensor& x, const Tensor& y, Context& context, std::int64_t step = 0) {
    forward(mode, x, y, context, Fused{}, step);
  }

  struct InputGradients {
    const Tensor* dx =
        nullptr;  ///< null: the input needs no gradient and no message is sent; must be so on all members alike
    const Tensor* d_add = nullptr;  ///< gradient of the residual
    bool accumulate_dx = false;
    bool accumulate_add = false;
  };

  /// Computes the gradients of one forward call (whose x must be unchanged). dy has x's shape and type, dx and d_add
  /// also its layout; outputs do not overlap inputs. *Collective* over the group if dx is wanted and the forward was a
  /// training one. weight_grad() and bias_grad() accumulate this call's share, see gradients_are_reduced(). dy is the
  /// gradient of a sum over all members' losses, so nothing is divided here.
  void backward(const Tensor& x, const Tensor& dy, Context& context, InputGradients want, std::int64_t step = 0);

  /// Whether weight_grad() / bias_grad() hold sums over the whole group (the same on every member), because backward's
  /// message contained them, or only this worker's share, to be summed over workers with the other gradients. True if
  /// and only if the last backward sent its message, that is, wanted dx after a forward that used the batch's
  /// statistics. The two kinds cannot be accumulated together between calls of zero_grad(): backward throws
  /// Error(usage).
  bool gradients_are_reduced() const;

  const std::string& name() const;
  std::int64_t channels() const;
  const BatchNormOptions& options() const;
  const Communicator& group() const;

  // Parameters and state, f32 [C] (empty without affine / running statistics).
  std::span<float> weight();
  std::span<float> bias();
  std::span<float> weight_grad();
  std::span<float> bias_grad();
  std::span<float> running_mean();
  std::span<float> running_var();  ///< unbiased (M - 1), as in PyTorch
  std::span<const float> weight() const;
  std::span<const float> bias() const;
  std::span<const float> weight_grad() const;
  std::span<const float> bias_grad() const;
  std::span<const float> running_mean() const;
  std::span<const float> running_var() const;
  std::int64_t num_batches_tracked() const;
  void set_num_batches_tracked(std::int64_t n);
  void zero_grad();

  /// Makes the same layer (options, parameters, statistics, counters) over another group: local <-> grouped <->
  /// synchronized.
  BatchNorm convert(Communicator group) const;

  /// Refuses second derivatives: always throws Error(usage).
  [[noreturn]] void double_backward() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
