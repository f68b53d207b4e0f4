// The two sweeps that compute sums, and what is derived from the sums.
//
// Minimum: one read of x forward, of x and dy backward, at the bandwidth of the device's memory. A block writes at most
// a sixteenth (f32) or an eighth (f16, bf16) of what it has read to the second-level cache, and these partial sums are
// read once, by one block per 16 of them. A single block that reads all of them would take longer than the sweep, given
// how many bytes a multiprocessor can load (not measured).

#include "ops/cuda/batch_norm_channels.cuh"
#include "ops/cuda/channel_walk.cuh"
#include "ops/cuda/gate.cuh"

namespace syncbn::ops::cuda {

namespace {

/// Values of a channel that are summed in f32 before they are added to an f64 sum.
constexpr unsigned kRun = 64;
constexpr unsigned kPivotPositions = 4;

/// The mean of a few values of each of the thread's channels, spread over the batch: within the data's range, and
/// exact.
template <class T, bool kLast, int kWidth>
__device__ void find_pivot(const Walk<kLast, kWidth>& walk, const T* x,
                           float (&pivot)[Walk<kLast, kWidth>::kChannels]) {
  constexpr int kChannels = Walk<kLast, kWidth>::kChannels;
  constexpr float kShare = 1.0f / static_cast<float>(kPivotPositions * (kLast ? 1 : kWidth));
  for (int k = 0; k < kChannels; ++k) pivot[k] = 0;
  for (unsigned i = 0; i < kPivotPositions; ++i) {
    const std::size_t position = static_cast<std::size_t>(walk.extent.positions) * i / kPivotPositions;
    const auto pack = Pack<T, kWidth>::load(x + walk.offset(static_cast<unsigned>(position)));
    for (int v = 0; v < kWidth; ++v) pivot[walk.slot(v)] += pack.get(v) * kShare;
  }
}

/// Adds the f32 sums to the f64 sums, and clears them.
template <int kChannels>
__device__ void promote(float (&a)[kChannels], float (&b)[kChannels], double (&sum)[2][kChannels]) {
  for (int k = 0; k < kChannels; ++k) {
    sum[0][k] += a[k];
    sum[1][k] += b[k];
    a[k] = b[k] = 0;
  }
}

template <class T, bool kLast, int kWidth>
__global__ void __launch_bounds__(kThreads)
    sums_kernel(Extent extent, const T* __restrict__ x, ChannelArrays arrays, double n, double* partials, bool finish,
                double eps, Affine affine) {
  const Walk<kLast, kWidth> walk(extent);
  arrays = arrays.of(blockIdx.z);
  x += blockIdx.z * extent.next;
  constexpr int kChannels = Walk<kLast, kWidth>::kChannels;
  constexpr unsigned kPerTurn = kUnroll * (kLast ? 1 : kWidth);  // values of a channel per turn of the loop
  using Vector = Pack<T, kWidth>;
  __shared__ BlockSums<2, kChannels> sums;
  __shared__ float pivots[kChannels][32];

  double sum[2][kChannels] = {};
  if (walk.active()) {
    float pivot[kChannels], a[kChannels] = {}, b[kChannels] = {};
    find_pivot(walk, x, pivot);
    if (threadIdx.y == 0) {
      for (int k = 0; k < kChannels; ++k) pivots[k][threadIdx.x] = pivot[k];
    }
    unsigned turns = 0;
    for (unsigned position = walk.first; position < extent.positions; position += kUnroll * walk.step) {
      Vector vector[kUnroll];
#pragma unroll
      for (unsigned u = 0; u < kUnroll; ++u) {
        const unsigned at = position + u * walk.step;
        if (at < extent.positions) vector[u] = Vector::load(x + walk.offset(at));
      }
#pragma unroll
      for (unsigned u = 0; u < kUnroll; ++u) {
        if (position + u * walk.step >= extent.positions) break;
#pragma unroll
        for (int v = 0; v < kWidth; ++v) {
          const int k = walk.slot(v);
          const float d = vector[u].get(v) - pivot[k];
          a[k] += d;
          b[k] = fmaf(d, d, b[k]);
        }
      }
      if (++turns == kRun / kPerTurn) {
        promote(a, b, sum);
        turns = 0;
      }
    }
    promote(a, b, sum);
  }
  sums.add_up(sum);
  if (!add_up_blocks(sums, partials, arrays.arrived)) return;
  if (threadIdx.y != 0 || !walk.active()) return;
  for (int k = 0; k < kChannels; ++k) {
    const unsigned c = walk.channel + k;
    write_message(arrays, extent.channels, c, n, pivots[k][threadIdx.x], sums.total[0][k][threadIdx.x],
                  sums.total[1][k][threadIdx.x]);
    // The count may be written by another block, so it is not read back.
    if (finish) finish_channel(arrays, extent.channels, c, n, arrays.message, eps, affine);
  }
}

/// `relu`: a FusedRelu, or a type that stands for one.
template <class T, bool kLast, int kWidth, class Relu>
__global__ void __launch_bounds__(kThreads, 2)
    backward_sums_kernel(Extent extent, const T* __restrict__ x, const T* __restrict__ dy, ChannelArrays arrays,
                         Relu relu, const std::uint8_t* __restrict__ mask, double* partials, bool finish) {
  const Walk<kLast, kWidth> walk(extent);
  arrays = arrays.of(blockIdx.z);
  x += blockIdx.z * extent.next;
  dy += blockIdx.z * extent.next;
  mask = mask ? mask + blockIdx.z * extent.next / kWidth : nullptr;
  constexpr int kChannels = Walk<kLast, kWidth>::kChannels;
  constexpr unsigned kTogether = kUnroll / 2;  // for two tensors; with four vectors each, registers would spill
  constexpr unsigned kPerTurn = kTogether * (kLast ? 1 : kWidth);
  using Vector = Pack<T, kWidth>;
  __shared__ BlockSums<2, kChannels> sums;

  double sum[2][kChannels] = {};
  if (walk.active()) {
    const Gate<kChannels> gate(arrays, walk.channel);
    float a[kChannels] = {}, b[kChannels] = {};
    unsigned turns = 0;
    for (unsigned position = walk.first; position < extent.positions; position += kTogether * walk.step) {
      Vector x_vector[kTogether], dy_vector[kTogether];
      unsigned bits[kTogether];
#pragma unroll
      for (unsigned u = 0; u < kTogether; ++u) {
        const unsigned at = position + u * walk.step;
        if (at >= extent.positions) continue;
        const std::size_t offset = walk.offset(at);
        x_vector[u] = Vector::load(x + offset);
        dy_vector[u] = Vector::load(dy + offset);
        bits[u] = relu == FusedRelu::bits ? mask[offset / kWidth] : 0U;
      }
#pragma unroll
      for (unsigned u = 0; u < kTogether; ++u) {
        if (position + u * walk.step >= extent.positions) break;
#pragma unroll
        for (int v = 0; v < kWidth; ++v) {
          const int k = walk.slot(v);
          const float xc = x_vector[u].get(v) - gate.center[k];
          const float g = gate.pass(relu, dy_vector[u].get(v), xc, k, bits[u] >> v);
          a[k] += g;
          b[k] = fmaf(g, xc, b[k]);
        }
      }
      if (++turns == kRun / kPerTurn) {
        promote(a, b, sum);
        turns = 0;
      }
    }
    promote(a, b, sum);
  }
  sums.add_up(sum);
  if (!add_up_blocks(sums, partials, arrays.arrived)) return;
  if (threadIdx.y != 0 || !walk.active()) return;
  for (int k = 0; k < kChannels; ++k) {
    const unsigned c = walk.channel + k;
    const double sum_g = sums.total[0][k][threadIdx.x];
    // Convert to a sum about the mean itself instead of its rounded value.
    const double sum_g_xc = sums.total[1][k][threadIdx.x] + (arrays.center[c] - arrays.mean[c]) * sum_g;
    arrays.backward_message[c] = sum_g;
    arrays.backward_message[extent.channels + c] = sum_g_xc;
    if (finish) finish_gradient(arrays, c, sum_g, sum_g_xc);
  }
}

}  // namespace

std::int64_t block_counters(std::int64_t channels) {
  return static_cast<std::int64_t>(Sweep::counters(channels));
}

Sweep BatchNorm::sweep(const Tensor& x, std::int64_t n) const {
  return each_ ? Sweep::of_each(x, n) : Sweep(x, n);
}

void BatchNorm::sums(const Tensor& x, std::int64_t n, bool alone, Affine affine) {
  require_alike(x, {});
  if (n * x.shape.spatial() == 0) {
    queue_.clear(arrays_.message, static_cast<std::size_t>(1 + 2 * channels_) * sizeof(double));
    if (alone) finish(arrays_.message, affine);
    return;
  }
  const Sweep sweep = this->sweep(x, n);
  double* partials = queue_.scratch<double>(sweep.partials(2, x.type));
  visit_sweep(x.type, sweep, [&](auto value, auto last, auto width) {
    using T = decltype(value);
    queue_.launch("batch norm: statistics", sums_kernel<T, last(), width()>, sweep.grid, sweep.block, sweep.extent,
                  x.as<const T>(), arrays_, static_cast<double>((each_ ? 1 : n) * x.shape.spatial()), partials, alone,
                  eps_, affine);
  });
}

void BatchNorm::backward_sums(const Tensor& x, const Tensor& dy, std::int64_t n, FusedRelu relu,
                              const std::uint8_t* mask, bool alone) {
  require_alike(x, {&dy});
  if (n * x.shape.spatial() == 0) {
    queue_.clear(arrays_.backward_message, static_cast<std::size_t>(2 * channels_) * sizeof(double));
    if (alone) finish_backward(arrays_.backward_message);
    return;
  }
  const Sweep sweep = this->sweep(x, n);
  double* partials = queue_.scratch<double>(sweep.partials(2, x.type));
  visit_sweep(x.type, sweep, [&](auto value, auto last, auto width) {
    using T = decltype(value);
    visit_relu<kFast<last(), width()>>(relu, [&](auto kind) {
      queue_.launch("batch norm: sums of the gradient", backward_sums_kernel<T, last(), width(), decltype(kind)>,
                    sweep.grid, sweep.block, sweep.extent, x.as<const T>(), dy.as<const T>(), arrays_, kind, mask,
                    partials, alone);
    });
  });
}

}  // namespace syncbn::ops::cuda
