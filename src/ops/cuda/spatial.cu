// Kernels that go over positions or between layouts: global average, pooling, reordering. One thread per output value
// (per vector of channels for pooling), so that no two write to the same place.

#include "ops/cuda/kernels.cuh"
#include "ops/cuda/vectors.cuh"

namespace syncbn::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;

/// Where a value (n, c, i) of a tensor lies.
struct Places {
  std::int64_t channels, spatial;
  bool channels_last;

  explicit Places(const Tensor& t)
      : channels(t.shape.c()), spatial(t.shape.spatial()), channels_last(t.layout == Layout::channels_last) {}
  /// The same values seen as another shape; a row [N, F] has one order only.
  Places(const Tensor& t, const Shape& shape)
      : channels(shape.c()),
        spatial(shape.spatial()),
        channels_last(t.layout == Layout::channels_last && t.shape.rank() > 2) {}
  __device__ std::int64_t at(std::int64_t n, std::int64_t c, std::int64_t i) const {
    return channels_last ? (n * spatial + i) * channels + c : (n * channels + c) * spatial + i;
  }
};

__device__ std::int64_t this_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <class T>
__global__ void average_kernel(const T* x, T* y, Places places, std::int64_t count) {
  const std::int64_t k = this_thread();
  if (k >= count) return;
  const std::int64_t n = k / places.channels, c = k % places.channels;
  double sum = 0;
  for (std::int64_t i = 0; i < places.spatial; ++i) sum += to_float(x[places.at(n, c, i)]);
  y[k] = from_float<T>(static_cast<float>(sum / static_cast<double>(places.spatial)));
}

template <class T>
__global__ void average_backward_kernel(const T* dy, T* dx, Places places, float share, std::int64_t count,
                                        bool accumulate) {
  const std::int64_t k = this_thread();
  if (k >= count) return;
  const std::int64_t per_sample = places.channels * places.spatial, n = k / per_sample, inside = k % per_sample;
  const std::int64_t c = places.channels_last ? inside % places.channels : inside / places.spatial;
  const float value = to_float(dy[n * places.channels + c]) * share;
  dx[k] = from_float<T>(accumulate ? to_float(dx[k]) + value : value);
}

template <class From, class To>
__global__ void reorder_kernel(const From* x, To* y, Places from, Places to, std::int64_t count, bool accumulate) {
  const std::int64_t k = this_thread();
  if (k >= count) return;
  const std::int64_t per_sample = to.channels * to.spatial, n = k / per_sample, inside = k % per_sample;
  const std::int64_t c = to.channels_last ? inside % to.channels : inside / to.spatial;
  const std::int64_t i = to.channels_last ? inside / to.channels : inside % to.spatial;
  const float value = to_float(x[from.at(n, c, i)]);
  y[k] = from_float<To>(accumulate ? to_float(y[k]) + value : value);
}

/// The geometry of a pooling in the numbers that its kernels use.
struct Window {
  int c, h_in, w_in, h_out, w_out, kernel, stride, padding;
  bool max;

  explicit Window(const PoolGeometry& g)
      : c(static_cast<int>(g.c)),
        h_in(static_cast<int>(g.h_in)),
        w_in(static_cast<int>(g.w_in)),
        h_out(static_cast<int>(g.h_out)),
        w_out(static_cast<int>(g.w_out)),
        kernel(static_cast<int>(g.kernel)),
        stride(static_cast<int>(g.stride)),
        padding(static_cast<int>(g.padding)),
        max(g.kind == PoolKind::max) {}
};

/// Which sample, channel and position a thread's value has, in a tensor of h x w.
struct Spot {
  std::int64_t n;
  int c, row, column;

  __device__ Spot(std::int64_t k, int channels, int h, int w, bool channels_last) {
    if (channels_last) c = static_cast<int>(k % channels), k /= channels;
    column = static_cast<int>(k % w), k /= w;
    row = static_cast<int>(k % h), k /= h;
    if (!channels_last) c = static_cast<int>(k % channels), k /= channels;
    n = k;
  }
};

template <class T>
__global__ void pool_kernel(Window g, Places in, const T* x, T* y, std::uint8_t* places, std::int64_t count) {
  const std::int64_t k = this_thread();
  if (k >= count) return;
  const Spot spot(k, g.c, g.h_out, g.w_out, in.channels_last);
  const int top = spot.row * g.stride - g.padding, left = spot.column * g.stride - g.padding;
  float best = -INFINITY, sum = 0;
  int place = -1;
  for (int i = 0; i < g.kernel; ++i) {
    for (int j = 0; j < g.kernel; ++j) {
      const int h = top + i, w = left + j;
      if (h < 0 || h >= g.h_in || w < 0 || w >= g.w_in) continue;
      const float value = to_float(x[in.at(spot.n, spot.c, static_cast<std::int64_t>(h) * g.w_in + w)]);
      sum += value;
      // The first of equals; a NaN wins.
      if (place < 0 || value > best || (isnan(value) && !isnan(best))) best = value, place = i * g.kernel + j;
    }
  }
  y[k] = from_float<T>(g.max ? best : sum / static_cast<float>(g.kernel * g.kernel));
  if (g.max) places[k] = static_cast<std::uint8_t>(place);
}

/// Each input gathers from the windows that it is in.
template <class T>
__global__ void pool_backward_kernel(Window g, Places out, const T* dy, T* dx, const std::uint8_t* places,
                                     std::int64_t count, bool accumulate) {
  const std::int64_t k = this_thread();
  if (k >= count) return;
  const Spot spot(k, g.c, g.h_in, g.w_in, out.channels_last);
  float sum = 0;
  for (int i = 0; i < g.kernel; ++i) {
    const int row = spot.row + g.padding - i;
    if (row < 0 || row % g.stride != 0 || row / g.stride >= g.h_out) continue;
    for (int j = 0; j < g.kernel; ++j) {
      const int column = spot.column + g.padding - j;
      if (column < 0 || column % g.stride != 0 || column / g.stride >= g.w_out) continue;
      const std::int64_t at =
          out.at(spot.n, spot.c, static_cast<std::int64_t>(row / g.stride) * g.w_out + column / g.stride);
      if (g.max && places[at] != i * g.kernel + j) continue;
      sum += to_float(dy[at]);
    }
  }
  if (!g.max) sum /= static_cast<float>(g.kernel * g.kernel);
  dx[k] = from_float<T>(accumulate ? to_float(dx[k]) + sum : sum);
}

}  // namespace

void global_average(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n) {
  const std::int64_t count = n * x.shape.c();
  visit_type(x.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("global average", average_kernel<T>, blocks_for(count, kThreads), kThreads, x.as<const T>(), y.as<T>(),
                 Places(x), count);
  });
}

void global_average_backward(Queue& queue, const Tensor& dy, const Tensor& dx, std::int64_t n, bool accumulate) {
  const std::int64_t count = n * dx.sample_stride();
  const float share = 1 / static_cast<float>(dx.shape.spatial());
  visit_type(dx.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("global average, backward", average_backward_kernel<T>, blocks_for(count, kThreads), kThreads,
                 dy.as<const T>(), dx.as<T>(), Places(dx), share, count, accumulate);
  });
}

void reorder(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n, bool accumulate) {
  const Shape& shape = x.shape.rank() >= y.shape.rank() ? x.shape : y.shape;
  const std::int64_t count = n * y.sample_stride();
  visit_type(x.type, [&](auto from) {
    visit_type(y.type, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      queue.launch("reordering", reorder_kernel<From, To>, blocks_for(count, kThreads), kThreads, x.as<const From>(),
                   y.as<To>(), Places(x, shape), Places(y, shape), count, accumulate);
    });
  });
}

void pool(Queue& queue, const PoolGeometry& g, const Tensor& x, const Tensor& y, std::uint8_t* places, std::int64_t n) {
  const std::int64_t count = n * y.sample_stride();
  visit_type(x.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("pooling", pool_kernel<T>, blocks_for(count, kThreads), kThreads, Window(g), Places(x),
                 x.as<const T>(), y.as<T>(), places, count);
  });
}

void pool_backward(Queue& queue, const PoolGeometry& g, const Tensor& dy, const Tensor& dx, const std::uint8_t* places,
                   std::int64_t n, bool accumulate) {
  const std::int64_t count = n * dx.sample_stride();
  visit_type(dx.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("pooling, backward", pool_backward_kernel<T>, blocks_for(count, kThreads), kThreads, Window(g),
                 Places(dy), dy.as<const T>(), dx.as<T>(), places, count, accumulate);
  });
}

}  // namespace syncbn::ops::cuda
