#pragma once

// Kernels without state. Tensors are in device memory, channels first or last, f32, f16 or bf16, the same for all in
// one call unless it says otherwise; n is the number of samples and may be 0. Results are the same to the bit in every
// run. All calls are asynchronous on the queue.

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "ops/backend.hpp"
#include "ops/cuda/runtime.cuh"
#include "ops/device.hpp"

namespace syncbn::ops::cuda {

// ---- elementwise; x and y of the same layout ----

/// y = f(x), and dx (+)= dy * f'(x), expressed through y. NaN stays NaN.
void activate(Queue& queue, Activation kind, float slope, const Tensor& x, const Tensor& y, std::int64_t n);
void activate_backward(Queue& queue, Activation kind, float slope, const Tensor& y, const Tensor& dy, const Tensor& dx,
                       std::int64_t n, bool accumulate);
void add(Queue& queue, const Tensor& a, const Tensor& b, const Tensor& y, std::int64_t n);
/// y (+)= x
void copy(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n, bool accumulate);
/// As Elementwise::dropout: the same values are dropped as on the CPU. `sample_ids`: [n] in device memory.
void dropout(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n, float p, std::uint64_t seed,
             std::uint64_t step, std::uint64_t layer_key, const std::int64_t* sample_ids, bool accumulate);

// ---- positions and layouts ----

/// y[N, C] = mean of x over the positions, and dx (+)= its gradient.
void global_average(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n);
void global_average_backward(Queue& queue, const Tensor& dy, const Tensor& dx, std::int64_t n, bool accumulate);
/// As Elementwise::look_up.
void look_up(Queue& queue, const std::uint8_t* bytes, const float* values, const Tensor& y, std::int64_t n);
/// y (+)= x in y's layout and type: same shape, or [N, C*H*W] <-> [N, C, H, W] (flatten in channels_first order).
void reorder(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n, bool accumulate);

/// y += bias[c], and d_bias[c] += sums of dy over samples and positions; bias f32.
void add_bias(Queue& queue, const float* bias, const Tensor& y, std::int64_t n);
void add_bias_gradient(Queue& queue, const Tensor& dy, std::int64_t n, float* d_bias);

/// `places`: one byte for each output of max, the position of the maximum in the window; unused for average.
void pool(Queue& queue, const PoolGeometry& g, const Tensor& x, const Tensor& y, std::uint8_t* places, std::int64_t n);
void pool_backward(Queue& queue, const PoolGeometry& g, const Tensor& dy, const Tensor& dx, const std::uint8_t* places,
                   std::int64_t n, bool accumulate);

// ---- the end of a step ----

/// Softmax cross-entropy as syncbn::softmax_cross_entropy; labels: [n] in device memory. result[0] += sum of the
/// losses, result[1] += number of correct predictions. `d_logits` may be absent.
void softmax_loss(Queue& queue, const Tensor& logits, const int* labels, std::int64_t n, double smoothing, double scale,
                  const Tensor& d_logits, double* result);

// ---- flat buffers of f32 ----

/// to = left + right: one addition of the tree-ordered sum of several workers' gradients.
void add_flat(Queue& queue, const float* left, const float* right, float* to, std::int64_t count);
/// As ops::Device::add_rows().
void add_rows(Queue& queue, double* rows, std::int64_t stride, std::span<const std::pair<int, int>> pairs,
              std::int64_t count);
/// to = keep * to + share * values
void blend(Queue& queue, const double* values, double keep, double share, float* to, std::int64_t count);
/// As ops::Device::update_running().
void update_running(Queue& queue, std::span<const Device::Running> all);

}  // namespace syncbn::ops::cuda
