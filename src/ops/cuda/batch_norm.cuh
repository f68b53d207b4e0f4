#pragma once

// Batch normalization on a device.
//
// Passes over memory, which are the minimum: forward, one sweep that reads x (statistics) and one that reads x and
// writes y (+ the residual, + the ReLU's mask); backward, one that reads x and dy (sums) and one that reads them again
// and writes dx (+ the residual's gradient). The second sweep of each pair goes backwards through the tensor, because
// what the first read last is still in the second-level cache. Four launches per step when the worker is alone in its
// group; two more, of a few microseconds each, when messages are exchanged.
//
// Precision: sums of at most kRun values in f32 about a pivot (the mean of a few values of the same channel, exact in
// f32), everything else in f64; there is no f64 arithmetic per value. The variance is accurate to 1e-7 whatever the
// mean.
//
// How the layers use it (see ops::Normalization): all intermediate data - partial sums, the group's statistics, the
// map, the gradient's coefficients - stays in device memory and belongs to this object. Each message is one array of
// f64, `message()` forward and `backward_message()` backward, in exactly the form that workers on the CPU send. A group
// of one skips the message (`alone`): the sweep's last block derives statistics and map itself.

#include <initializer_list>
#include <span>
#include <vector>

#include "ops/cuda/runtime.cuh"
#include "ops/device.hpp"

namespace syncbn::ops::cuda {

struct Sweep;
/// Number of counters of add_up_blocks() for one tensor with this many channels.
std::int64_t block_counters(std::int64_t channels);

/// The places of a normalization's per-channel arrays in device memory; C channels.
struct ChannelArrays {
  double* message;                ///< [1 + 2C] count, sums, sums of squares about zero, of this worker
  double* backward_message;       ///< [2C] sum(g), sum(g * (x - mean)), of this worker
  double* count;                  ///< [1] M of the group
  double *mean, *var, *invstd;    ///< [C] of the group
  double* gain;                   ///< [C] gamma * invstd
  float *center, *scale, *shift;  ///< [C] y = (x - center) * scale + shift
  float *p, *q, *r;               ///< [C] dx = p * g + q * (x - center) + r
  unsigned* arrived;              ///< counters of add_up_blocks()
  std::size_t bytes;              ///< of all arrays, the distance from one tensor's to the next one's

  /// The arrays of tensor `i`.
  __device__ ChannelArrays of(unsigned i) const {
    const std::size_t d = i * bytes;
    return {moved(message, d),
            moved(backward_message, d),
            moved(count, d),
            moved(mean, d),
            moved(var, d),
            moved(invstd, d),
            moved(gain, d),
            moved(center, d),
            moved(scale, d),
            moved(shift, d),
            moved(p, d),
            moved(q, d),
            moved(r, d),
            moved(arrived, d),
            bytes};
  }

 private:
  template <class T>
  __device__ static T* moved(T* array, std::size_t distance) {
    return reinterpret_cast<T*>(reinterpret_cast<char*>(array) + distance);
  }
};

/// One normalization layer of one worker. Tensors: [N, C, spatial...] of f32, f16 or bf16 (the same for all in one
/// call), channels first or last, all in one layout, in device memory. Results are the same to the bit in every run and
/// on any device of one architecture. All calls are asynchronous.
class BatchNorm final : public Normalization {
 public:
  /// `each` > 0: every sample, of at most this many, is a batch of its own, with arrays of its own.
  BatchNorm(Queue& queue, std::int64_t channels, double eps, std::int64_t each = 0);

  // ---- forward ----
  /// Computes this worker's sums over n samples of x, in message(). n = 0 is allowed. `alone`: also calls finish() with
  /// them, in the same launch.
  void sums(const Tensor& x, std::int64_t n, bool alone = false, Affine affine = {}) override;
  const double* message() const override { return arrays_.message; }
  /// Derives statistics and map from the group's sums (as message(), in device memory). A variance that is not positive
  /// after adding eps gives NaN. A count of 0 gives zeros.
  void finish(const double* group, Affine affine) override;
  void statistics(std::span<double> mean, std::span<double> var) override;
  /// Evaluation: derives the map from given statistics, [C] each, in device memory. backward() then treats them as
  /// constants.
  void use_statistics(const float* mean, const float* var, Affine affine) override;
  /// y = map(x) (+ add) (then ReLU). `mask` (FusedRelu::bits) receives mask_bytes_per_sample() for each sample.
  void apply(const Tensor& x, const Tensor& add, const Tensor& y, std::int64_t n, FusedRelu relu,
             std::uint8_t* mask) override;
  /// Adds this batch to a step's contribution to the running statistics: c <- (1 - momentum) * c + share * value, for
  /// the mean and for the unbiased variance. A count of 0 contributes nothing. Then *kept = kept_value, if wanted.
  void fold_statistics(double momentum, double share, float* mean, float* var, float* kept = nullptr,
                       float kept_value = 0) override;

  // ---- backward; after finish() or use_statistics() ----
  /// Computes this worker's sum(g) and sum(g * (x - mean)), in backward_message(); g = dy where the ReLU passed, else
  /// 0. `alone`: also calls finish_backward() with them, in the same launch.
  void backward_sums(const Tensor& x, const Tensor& dy, std::int64_t n, FusedRelu relu, const std::uint8_t* mask,
                     bool alone = false) override;
  const double* backward_message() const override { return arrays_.backward_message; }
  void finish_backward(const double* group) override;
  /// d_weight += B * invstd, d_bias += A, from sums as in backward_message(); either may be null.
  void add_parameter_gradients(const double* sums, float* d_weight, float* d_bias) override;
  /// Computes dx and d_add = g; either may be absent; `accumulate_*` adds to the present values.
  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, std::int64_t n,
                FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) override;

  /// Copies the map, or the gradient's coefficients, from CPU memory; replaces finish() and finish_backward().
  void set_map(const ChannelMap& map);
  void set_gradient(const GradientMap& gradient);

  /// One byte per vector of values.
  static std::int64_t mask_bytes_per_sample(const Tensor& x);

  const ChannelArrays& arrays() const { return arrays_; }
  std::int64_t channels() const { return channels_; }

 private:
  Sweep sweep(const Tensor& x, std::int64_t n) const;
  void require_alike(const Tensor& x, std::initializer_list<const Tensor*> others) const;
  /// Copies arrays from CPU memory to the device in one transfer, `distance` values apart.
  void upload(std::initializer_list<const std::vector<float>*> arrays, float* first, std::ptrdiff_t distance);

  Queue& queue_;
  std::int64_t channels_;
  double eps_;
  bool each_;
  DeviceMemory memory_;
  ChannelArrays arrays_{};
};

}  // namespace syncbn::ops::cuda
