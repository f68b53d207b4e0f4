// The two sweeps that apply maps, and the per-channel steps between the sweeps.
//
// Minimum: x read and y written forward (+ the residual read, + 1 byte of mask written per 16 bytes read if bits are
// kept); backward x and dy read and dx written (+ the residual's gradient written).

#include "ops/cuda/batch_norm_channels.cuh"
#include "ops/cuda/channel_walk.cuh"
#include "ops/cuda/gate.cuh"

namespace syncbn::ops::cuda {

namespace {

/// Goes from the last position to the first: what the previous sweep read last is still in the cache.
template <bool kLast, int kWidth>
__device__ std::size_t reversed(const Walk<kLast, kWidth>& walk, unsigned position) {
  return walk.offset(walk.extent.positions - 1 - position);
}

/// The options of a sweep besides the map, decided at run time...
struct AnyMode {
  FusedRelu relu;
  bool with_add;  ///< adds a residual; in backward, writes its gradient
  bool with_dx = true, accumulate_dx = false, accumulate_add = false;
};
/// ... or at compile time: the bf16 gradient then uses 94 to 114 registers instead of 130 (nvcc 13.0, sm_90), so that
/// two blocks fit on a multiprocessor.
template <FusedRelu kRelu, bool kWithAdd>
struct Mode {
  static constexpr FusedRelu relu = kRelu;
  static constexpr bool with_add = kWithAdd, with_dx = true, accumulate_dx = false, accumulate_add = false;
};

/// Calls run(mode), with the common modes of fast sweeps as types.
template <bool kFast, class Run>
void visit_mode(const AnyMode& mode, Run run) {
  if constexpr (kFast) {
    if (mode.with_dx && !mode.accumulate_dx && !mode.accumulate_add) {
      return visit_relu<true>(
          mode.relu, [&](auto relu) { mode.with_add ? run(Mode<relu(), true>{}) : run(Mode<relu(), false>{}); });
    }
  }
  run(mode);
}

template <class T, bool kLast, int kWidth, class HowTo>
__global__ void __launch_bounds__(kThreads)
    apply_kernel(Extent extent, const T* __restrict__ x, const T* __restrict__ add, T* __restrict__ y,
                 ChannelArrays arrays, HowTo mode, std::uint8_t* __restrict__ mask) {
  const Walk<kLast, kWidth> walk(extent);
  if (!walk.active()) return;
  arrays = arrays.of(blockIdx.z);
  x += blockIdx.z * extent.next;
  if (mode.with_add) add += blockIdx.z * extent.next;
  y += blockIdx.z * extent.next;
  mask = mask ? mask + blockIdx.z * extent.next / kWidth : nullptr;
  using Vector = Pack<T, kWidth>;
  const Gate<Walk<kLast, kWidth>::kChannels> gate(arrays, walk.channel);
  for (unsigned position = walk.first; position < extent.positions; position += kUnroll * walk.step) {
    Vector x_vector[kUnroll], add_vector[kUnroll];
#pragma unroll
    for (unsigned u = 0; u < kUnroll; ++u) {
      const unsigned at = position + u * walk.step;
      if (at >= extent.positions) continue;
      const std::size_t offset = reversed(walk, at);
      x_vector[u] = Vector::load(x + offset);
      if (mode.with_add) add_vector[u] = Vector::load(add + offset);
    }
#pragma unroll
    for (unsigned u = 0; u < kUnroll; ++u) {
      const unsigned at = position + u * walk.step;
      if (at >= extent.positions) break;
      Vector out;
      unsigned bits = 0;
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        const int k = walk.slot(v);
        float z = gate.map(x_vector[u].get(v) - gate.center[k], k);
        if (mode.with_add) z += add_vector[u].get(v);
        if (z > 0) bits |= 1U << v;
        if (mode.relu != FusedRelu::none && z < 0) z = 0;  // NaN stays NaN
        out.set(v, z);
      }
      const std::size_t offset = reversed(walk, at);
      out.store(y + offset);
      if (mode.relu == FusedRelu::bits) mask[offset / kWidth] = static_cast<std::uint8_t>(bits);
    }
  }
}

template <class T, bool kLast, int kWidth, class HowTo>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Extent extent, const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx,
                    T* __restrict__ d_add, ChannelArrays arrays, HowTo mode, const std::uint8_t* __restrict__ mask) {
  const Walk<kLast, kWidth> walk(extent);
  if (!walk.active()) return;
  arrays = arrays.of(blockIdx.z);
  x += blockIdx.z * extent.next;
  dy += blockIdx.z * extent.next;
  if (mode.with_dx) dx += blockIdx.z * extent.next;
  if (mode.with_add) d_add += blockIdx.z * extent.next;
  mask = mask ? mask + blockIdx.z * extent.next / kWidth : nullptr;
  using Vector = Pack<T, kWidth>;
  constexpr int kChannels = Walk<kLast, kWidth>::kChannels;
  const Gate<kChannels> gate(arrays, walk.channel);
  float p[kChannels], q[kChannels], r[kChannels];
  for (int k = 0; k < kChannels; ++k) {
    p[k] = arrays.p[walk.channel + k];
    q[k] = arrays.q[walk.channel + k];
    r[k] = arrays.r[walk.channel + k];
  }
  constexpr unsigned kTogether = kUnroll / 2;  // two tensors are read
  for (unsigned position = walk.first; position < extent.positions; position += kTogether * walk.step) {
    Vector x_vector[kTogether], dy_vector[kTogether];
    unsigned bits[kTogether];
#pragma unroll
    for (unsigned u = 0; u < kTogether; ++u) {
      const unsigned at = position + u * walk.step;
      if (at >= extent.positions) continue;
      const std::size_t offset = reversed(walk, at);
      x_vector[u] = Vector::load(x + offset);
      dy_vector[u] = Vector::load(dy + offset);
      bits[u] = mode.relu == FusedRelu::bits ? mask[offset / kWidth] : 0U;
    }
#pragma unroll
    for (unsigned u = 0; u < kTogether; ++u) {
      const unsigned at = position + u * walk.step;
      if (at >= extent.positions) break;
      const std::size_t offset = reversed(walk, at);
      Vector dx_vector, add_vector;
      if (mode.with_dx && mode.accumulate_dx) dx_vector = Vector::load(dx + offset);
      if (mode.with_add && mode.accumulate_add) add_vector = Vector::load(d_add + offset);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        const int k = walk.slot(v);
        const float xc = x_vector[u].get(v) - gate.center[k];
        const float g = gate.pass(mode.relu, dy_vector[u].get(v), xc, k, bits[u] >> v);
        const float d = fmaf(p[k], g, fmaf(q[k], xc, r[k]));
        dx_vector.set(v, mode.accumulate_dx ? dx_vector.get(v) + d : d);
        add_vector.set(v, mode.accumulate_add ? add_vector.get(v) + g : g);
      }
      if (mode.with_dx) dx_vector.store(dx + offset);
      if (mode.with_add) add_vector.store(d_add + offset);
    }
  }
}

__global__ void finish_kernel(ChannelArrays arrays, unsigned channels, const double* group, double eps, Affine affine) {
  const unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c < channels) finish_channel(arrays, channels, c, group[0], group, eps, affine);
}

__global__ void use_statistics_kernel(ChannelArrays arrays, unsigned channels, const float* mean, const float* var,
                                      double eps, Affine affine) {
  const unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  if (c == 0) *arrays.count = 0;
  derive_map(arrays, c, mean[c], var[c], eps, affine);
  arrays.p[c] = arrays.scale[c];
  arrays.q[c] = arrays.r[c] = 0;
}

__global__ void finish_backward_kernel(ChannelArrays arrays, unsigned channels, const double* group) {
  const unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c < channels) finish_gradient(arrays, c, group[c], group[channels + c]);
}

__global__ void parameter_gradients_kernel(ChannelArrays arrays, unsigned channels, const double* sums, float* d_weight,
                                           float* d_bias) {
  const unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  if (d_weight) d_weight[c] += static_cast<float>(sums[channels + c] * arrays.invstd[c]);
  if (d_bias) d_bias[c] += static_cast<float>(sums[c]);
}

__global__ void fold_kernel(ChannelArrays arrays, unsigned channels, double momentum, double share, float* mean,
                            float* var, float* kept, float kept_value) {
  const unsigned c = blockIdx.x * blockDim.x + threadIdx.x;
  const double m = *arrays.count;
  if (c == 0 && kept) *kept = kept_value;
  if (c >= channels || m == 0) return;
  const double unbiased = m > 1 ? m / (m - 1) : 1;
  mean[c] = static_cast<float>((1 - momentum) * mean[c] + share * arrays.mean[c]);
  var[c] = static_cast<float>((1 - momentum) * var[c] + share * unbiased * arrays.var[c]);
}

}  // namespace

std::int64_t BatchNorm::mask_bytes_per_sample(const Tensor& x) {
  const Sweep sweep(x, 1);
  return x.sample_stride() / (sweep.full_width ? 16 / static_cast<std::int64_t>(size_of(x.type)) : 1);
}

void BatchNorm::finish(const double* group, Affine affine) {
  const auto c = static_cast<unsigned>(channels_);
  queue_.launch("batch norm: finish", finish_kernel, blocks_for(channels_, 128), 128, arrays_, c, group, eps_, affine);
}

void BatchNorm::use_statistics(const float* mean, const float* var, Affine affine) {
  const auto c = static_cast<unsigned>(channels_);
  queue_.launch("batch norm: given statistics", use_statistics_kernel, blocks_for(channels_, 128), 128, arrays_, c,
                mean, var, eps_, affine);
}

void BatchNorm::finish_backward(const double* group) {
  const auto c = static_cast<unsigned>(channels_);
  queue_.launch("batch norm: finish backward", finish_backward_kernel, blocks_for(channels_, 128), 128, arrays_, c,
                group);
}

void BatchNorm::add_parameter_gradients(const double* sums, float* d_weight, float* d_bias) {
  const auto c = static_cast<unsigned>(channels_);
  queue_.launch("batch norm: gradients of gamma and beta", parameter_gradients_kernel, blocks_for(channels_, 128), 128,
                arrays_, c, sums, d_weight, d_bias);
}

void BatchNorm::fold_statistics(double momentum, double share, float* mean, float* var, float* kept, float kept_value) {
  const auto c = static_cast<unsigned>(channels_);
  queue_.launch("batch norm: running statistics", fold_kernel, blocks_for(channels_, 128), 128, arrays_, c, momentum,
                share, mean, var, kept, kept_value);
}

void BatchNorm::apply(const Tensor& x, const Tensor& add, const Tensor& y, std::int64_t n, FusedRelu relu,
                      std::uint8_t* mask) {
  require_alike(x, {&add, &y});
  if (n * x.shape.spatial() == 0) return;
  const Sweep sweep = this->sweep(x, n);
  visit_sweep(x.type, sweep, [&](auto value, auto last, auto width) {
    using T = decltype(value);
    visit_mode<kFast<last(), width()>>(AnyMode{relu, static_cast<bool>(add)}, [&](auto how_to) {
      queue_.launch("batch norm: normalize", apply_kernel<T, last(), width(), decltype(how_to)>, sweep.map_grid,
                    sweep.block, sweep.extent, x.as<const T>(), add.as<const T>(), y.as<T>(), arrays_, how_to, mask);
    });
  });
}

void BatchNorm::backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, std::int64_t n,
                         FusedRelu relu, const std::uint8_t* mask, bool accumulate_dx, bool accumulate_add) {
  require_alike(x, {&dy, &dx, &d_add});
  if (n * x.shape.spatial() == 0) return;
  const Sweep sweep = this->sweep(x, n);
  visit_sweep(x.type, sweep, [&](auto value, auto last, auto width) {
    using T = decltype(value);
    const AnyMode mode{relu, static_cast<bool>(d_add), static_cast<bool>(dx), accumulate_dx, accumulate_add};
    visit_mode<kFast<last(), width()>>(mode, [&](auto how_to) {
      queue_.launch("batch norm: gradient", backward_kernel<T, last(), width(), decltype(how_to)>, sweep.map_grid,
                    sweep.block, sweep.extent, x.as<const T>(), dy.as<const T>(), dx.as<T>(), d_add.as<T>(), arrays_,
                    how_to, mask);
    });
  });
}

}  // namespace syncbn::ops::cuda
