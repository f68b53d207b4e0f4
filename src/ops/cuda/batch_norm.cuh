#pragma once

// Batch normalization on a device.
//
// Minimum of passes: forward, one sweep that reads x (statistics) and one that reads x, writes y (+ the residual, + the
// ReLU's mask); backward, one that reads x and dy (sums) and one that reads them again and writes dx (+ the residual's
// gradient). The second sweep of each pair goes backwards through the tensor, because what the first has read last is
// still in the second-level cache. Four launches a step when the worker is alone in its group; two more, of a few
// microseconds, where a message lies between.
//
// Numbers: sums of at most kRun values in f32 about a pivot (the mean of a few values of the same channel, exact in
// f32), everything above in f64; per value there is no f64 arithmetic. The variance is right to 1e-7 whatever the mean.
//
// How the layers use it (see ops::Normalization). Everything between the sweeps - partial sums, the group's statistics,
// the map, the gradient's coefficients - stays in device memory and belongs to this object. What travels is one array
// of f64, `message()` forward and `backward_message()` backward, in exactly the form that the CPU's workers send. A
// group of one skips the message (`alone`): the sweep's last block derives statistics and map by itself.

#include <initializer_list>
#include <span>
#include <vector>

#include "ops/cuda/runtime.cuh"
#include "ops/device.hpp"

namespace syncbn::ops::cuda {

struct Sweep;
/// Of add_up_blocks(), for one tensor of so many channels.
std::int64_t block_counters(std::int64_t channels);

/// Where the per-channel numbers of one normalization lie, in device memory; C channels.
struct ChannelArrays {
  double* message;                ///< [1 + 2C] count, sums, sums of squares about zero, of this worker
  double* backward_message;       ///< [2C] sum(g), sum(g * (x - mean)), of this worker
  double* count;                  ///< [1] M of the group
  double *mean, *var, *invstd;    ///< [C] of the group
  double* gain;                   ///< [C] gamma * invstd
  float *center, *scale, *shift;  ///< [C] y = (x - center) * scale + shift
  float *p, *q, *r;               ///< [C] dx = p * g + q * (x - center) + r
  unsigned* arrived;              ///< of add_up_blocks()
  std::size_t bytes;              ///< of all of them, if there are some for each of several tensors

  /// Those of tensor `i`.
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

/// One normalization layer of one worker. Tensors: [N, C, spatial...] of f32, f16 or bf16 (all alike in one call),
/// channels first or last, all in one layout, in device memory. Results are the same to the bit in every run and on any
/// device of one architecture. All calls are asynchronous.
class BatchNorm final : public Normalization {
 public:
  /// `each` > 0: every sample, of which there are at most so many, is a batch of its own, with arrays of its own.
  BatchNorm(Queue& queue, std::int64_t channels, double eps, std::int64_t each = 0);

  // ---- forward ----
  /// This worker's sums over n samples of x, in message(). n = 0 is allowed. `alone`: finish() with them, in the same
  /// launch.
  void sums(const Tensor& x, std::int64_t n, bool alone = false, Affine affine = {}) override;
  const double* message() const override { return arrays_.message; }
  /// Statistics and map from the group's sums (as message(), in device memory). A variance that eps does not make
  /// positive gives NaN. A count of 0 gives zeros.
  void finish(const double* group, Affine affine) override;
  void statistics(std::span<double> mean, std::span<double> var) override;
  /// Evaluation: from given statistics, [C] each, in device memory. backward() then treats them as constants.
  void use_statistics(const float* mean, const float* var, Affine affine) override;
  /// y = map(x) (+ add) (then ReLU). `mask` (FusedRelu::bits) gets mask_bytes_per_sample() for each sample.
  void apply(const Tensor& x, const Tensor& add, const Tensor& y, std::int64_t n, FusedRelu relu,
             std::uint8_t* mask) override;
  /// Adds this batch to what a step contributes to the running statistics: c <- (1 - momentum) * c + share * value, for
  /// the mean and for the unbiased variance. A count of 0 contributes nothing. Then *kept = kept_value, if wanted.
  void fold_statistics(double momentum, double share, float* mean, float* var, float* kept = nullptr,
                       float kept_value = 0) override;

  // ---- backward; after finish() or use_statistics() ----
  /// This worker's sum(g) and sum(g * (x - mean)), in backward_message(); g = dy where the ReLU passed, else 0.
  /// `alone`: finish_backward() with them, in the same launch.
  void backward_sums(const Tensor& x, const Tensor& dy, std::int64_t n, FusedRelu relu, const std::uint8_t* mask,
                     bool alone = false) override;
  const double* backward_message() const override { return arrays_.backward_message; }
  void finish_backward(const double* group) override;
  /// d_weight += B * invstd, d_bias += A, from sums as in backward_message(); either may be null.
  void add_parameter_gradients(const double* sums, float* d_weight, float* d_bias) override;
  /// dx and d_add = g; either may be absent; `accumulate_*` adds to what is there.
  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, std::int64_t n,
                FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) override;

  /// Takes the map, or the gradient's coefficients, from the processor instead of finish() and finish_backward().
  void set_map(const ChannelMap& map);
  void set_gradient(const GradientMap& gradient);

  /// One byte for each vector of values.
  static std::int64_t mask_bytes_per_sample(const Tensor& x);

  const ChannelArrays& arrays() const { return arrays_; }
  std::int64_t channels() const { return channels_; }

 private:
  Sweep sweep(const Tensor& x, std::int64_t n) const;
  void require_alike(const Tensor& x, std::initializer_list<const Tensor*> others) const;
  /// Arrays of the processor's to the device, `distance` values apart, in one go.
  void upload(std::initializer_list<const std::vector<float>*> arrays, float* first, std::ptrdiff_t distance);

  Queue& queue_;
  std::int64_t channels_;
  double eps_;
  bool each_;
  DeviceMemory memory_;
  ChannelArrays arrays_{};
};

}  // namespace syncbn::ops::cuda
