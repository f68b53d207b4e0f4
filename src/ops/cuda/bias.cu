// Biases, one per channel, and the sums that give their gradients.
//
// Minimum: y read and written; dy read.

#include "ops/cuda/channel_walk.cuh"
#include "ops/cuda/kernels.cuh"

namespace syncbn::ops::cuda {

namespace {

template <class T, bool kLast, int kWidth>
__global__ void __launch_bounds__(kThreads) bias_kernel(Extent extent, const float* __restrict__ bias, T* y) {
  const Walk<kLast, kWidth> walk(extent);
  if (!walk.active()) return;
  constexpr int kChannels = Walk<kLast, kWidth>::kChannels;
  using Vector = Pack<T, kWidth>;
  float own[kChannels];
  for (int k = 0; k < kChannels; ++k) own[k] = bias[walk.channel + k];
  for (unsigned position = walk.first; position < extent.positions; position += kUnroll * walk.step) {
    Vector vector[kUnroll];
#pragma unroll
    for (unsigned u = 0; u < kUnroll; ++u) {
      const unsigned at = position + u * walk.step;
      if (at < extent.positions) vector[u] = Vector::load(y + walk.offset(at));
    }
#pragma unroll
    for (unsigned u = 0; u < kUnroll; ++u) {
      const unsigned at = position + u * walk.step;
      if (at >= extent.positions) break;
#pragma unroll
      for (int v = 0; v < kWidth; ++v) vector[u].set(v, vector[u].get(v) + own[walk.slot(v)]);
      vector[u].store(y + walk.offset(at));
    }
  }
}

template <class T, bool kLast, int kWidth>
__global__ void __launch_bounds__(kThreads)
    bias_gradient_kernel(Extent extent, const T* __restrict__ dy, float* d_bias, double* partials, unsigned* arrived) {
  const Walk<kLast, kWidth> walk(extent);
  constexpr int kChannels = Walk<kLast, kWidth>::kChannels;
  using Vector = Pack<T, kWidth>;
  __shared__ BlockSums<1, kChannels> sums;

  double sum[1][kChannels] = {};
  if (walk.active()) {
    for (unsigned position = walk.first; position < extent.positions; position += kUnroll * walk.step) {
      Vector vector[kUnroll] = {};  // past the last position: zeros, which add nothing
#pragma unroll
      for (unsigned u = 0; u < kUnroll; ++u) {
        const unsigned at = position + u * walk.step;
        if (at < extent.positions) vector[u] = Vector::load(dy + walk.offset(at));
      }
      float few[kChannels] = {};  // short sums in f32: no f64 arithmetic per value
#pragma unroll
      for (unsigned u = 0; u < kUnroll; ++u) {
#pragma unroll
        for (int v = 0; v < kWidth; ++v) few[walk.slot(v)] += vector[u].get(v);
      }
      for (int k = 0; k < kChannels; ++k) sum[0][k] += few[k];
    }
  }
  sums.add_up(sum);
  if (!add_up_blocks(sums, partials, arrived)) return;
  if (threadIdx.y != 0 || !walk.active()) return;
  for (int k = 0; k < kChannels; ++k) d_bias[walk.channel + k] += static_cast<float>(sums.total[0][k][threadIdx.x]);
}

}  // namespace

void add_bias(Queue& queue, const float* bias, const Tensor& y, std::int64_t n) {
  const Sweep sweep(y, n);
  visit_sweep(y.type, sweep, [&](auto value, auto last, auto width) {
    using T = decltype(value);
    queue.launch("bias", bias_kernel<T, last(), width()>, sweep.map_grid, sweep.block, sweep.extent, bias, y.as<T>());
  });
}

void add_bias_gradient(Queue& queue, const Tensor& dy, std::int64_t n, float* d_bias) {
  const Sweep sweep(dy, n);
  const std::size_t shares = sweep.partials(1, dy.type), counters = Sweep::counters(dy.shape.c());
  double* partials = queue.scratch<double>(shares + counters);
  auto* arrived = reinterpret_cast<unsigned*>(partials + shares);
  if (sweep.grid.y > 1) queue.clear(arrived, counters * sizeof(unsigned));
  visit_sweep(dy.type, sweep, [&](auto value, auto last, auto width) {
    using T = decltype(value);
    queue.launch("gradient of the bias", bias_gradient_kernel<T, last(), width()>, sweep.grid, sweep.block,
                 sweep.extent, dy.as<const T>(), d_bias, partials, arrived);
  });
}

}  // namespace syncbn::ops::cuda
