// Kernels that go over positions or convert layouts: global average, pooling, reordering. One thread per output value
// (per vector of channels for pooling), so that no two threads write to the same place.
//
// Minimum: each input read and each output written once. That leaves little time for instructions, so threads are
// numbered with 32 bits, whose divisions are shorter, and pooling divides once per vector.

#include <algorithm>

#include "ops/cuda/kernels.cuh"
#include "ops/cuda/places.cuh"
#include "ops/cuda/vectors.cuh"

namespace syncbn::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;

template <class T>
__global__ void average_kernel(const T* x, T* y, Places places, unsigned count) {
  const unsigned k = this_thread();
  if (k >= count) return;
  const unsigned n = k / places.channels, c = k % places.channels;
  double sum = 0;
  for (unsigned i = 0; i < places.spatial; ++i) sum += to_float(x[places.at(n, c, i)]);
  y[k] = from_float<T>(static_cast<float>(sum / static_cast<double>(places.spatial)));
}

template <class T>
__global__ void average_backward_kernel(const T* dy, T* dx, Places places, float share, unsigned count,
                                        bool accumulate) {
  const unsigned k = this_thread();
  if (k >= count) return;
  const Spot<1> spot(places, k);
  const float value = to_float(dy[spot.n * places.channels + spot.c]) * share;
  dx[k] = from_float<T>(accumulate ? to_float(dx[k]) + value : value);
}

template <class From, class To>
__global__ void reorder_kernel(const From* x, To* y, Places from, Places to, unsigned count, bool accumulate) {
  const unsigned k = this_thread();
  if (k >= count) return;
  const Spot<1> spot(to, k);
  const float value = to_float(x[from.at(spot.n, spot.c, spot.i)]);
  y[k] = from_float<To>(accumulate ? to_float(y[k]) + value : value);
}

/// The geometry of a pooling in the types that its kernels use.
struct Window {
  int h_in, w_in, h_out, w_out, kernel, stride, padding;
  bool max;

  explicit Window(const PoolGeometry& g)
      : h_in(static_cast<int>(g.h_in)),
        w_in(static_cast<int>(g.w_in)),
        h_out(static_cast<int>(g.h_out)),
        w_out(static_cast<int>(g.w_out)),
        kernel(static_cast<int>(g.kernel)),
        stride(static_cast<int>(g.stride)),
        padding(static_cast<int>(g.padding)),
        max(g.kind == PoolKind::max) {}
  /// The first and the last window that contain a row (or column) of the padded input.
  __device__ int first(int row) const { return row < kernel ? 0 : (row - kernel) / stride + 1; }
  __device__ int last(int row, int windows) const { return std::min(row / stride, windows - 1); }
};

template <class T, int kWidth>
__global__ void pool_kernel(Window g, Places in, Places out, const T* x, T* y, std::uint8_t* places, unsigned count) {
  const unsigned k = this_thread();
  if (k >= count) return;
  const Spot<kWidth> spot(out, k);
  const int row = static_cast<int>(spot.i) / g.w_out, column = static_cast<int>(spot.i) % g.w_out;
  const int top = row * g.stride - g.padding, left = column * g.stride - g.padding;
  const int bottom = std::min(top + g.kernel, g.h_in), right = std::min(left + g.kernel, g.w_in);
  const T* plane = x + in.at(spot.n, spot.c, 0);
  float result[kWidth];  // maximum or sum
  int place[kWidth];
#pragma unroll
  for (int v = 0; v < kWidth; ++v) result[v] = g.max ? -INFINITY : 0, place[v] = -1;
  for (int h = std::max(top, 0); h < bottom; ++h) {
    for (int w = std::max(left, 0); w < right; ++w) {
      const auto values = Pack<T, kWidth>::load(plane + static_cast<std::size_t>(h * g.w_in + w) * in.stride());
      const int here = (h - top) * g.kernel + (w - left);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        const float value = values.get(v);
        if (!g.max) {
          result[v] += value;
        } else if (place[v] < 0 || value > result[v] || (isnan(value) && !isnan(result[v]))) {
          result[v] = value, place[v] = here;  // the first of equal values; NaN wins
        }
      }
    }
  }
  Pack<T, kWidth> values;
  Pack<std::uint8_t, kWidth> won;
#pragma unroll
  for (int v = 0; v < kWidth; ++v) {
    values.set(v, g.max ? result[v] : result[v] / static_cast<float>(g.kernel * g.kernel));
    won.value[v] = static_cast<std::uint8_t>(place[v]);
  }
  const std::size_t at = static_cast<std::size_t>(k) * kWidth;
  values.store(y + at);
  if (g.max) won.store(places + at);
}

/// Each input adds up the gradients of the windows that contain it, from the last to the first.
template <class T, int kWidth>
__global__ void pool_backward_kernel(Window g, Places in, Places out, const T* dy, T* dx, const std::uint8_t* places,
                                     unsigned count, bool accumulate) {
  const unsigned k = this_thread();
  if (k >= count) return;
  const Spot<kWidth> spot(in, k);
  const int row = static_cast<int>(spot.i) / g.w_in + g.padding, column = static_cast<int>(spot.i) % g.w_in + g.padding;
  const int top = g.first(row), left = g.first(column);
  const std::size_t plane = out.at(spot.n, spot.c, 0);
  float sum[kWidth] = {};
  for (int i = g.last(row, g.h_out); i >= top; --i) {
    for (int j = g.last(column, g.w_out); j >= left; --j) {
      const std::size_t at = plane + static_cast<std::size_t>(i * g.w_out + j) * out.stride();
      const auto gradient = Pack<T, kWidth>::load(dy + at);
      Pack<std::uint8_t, kWidth> won;
      if (g.max) won = Pack<std::uint8_t, kWidth>::load(places + at);
      const int here = (row - i * g.stride) * g.kernel + (column - j * g.stride);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) {
        if (!g.max || won.value[v] == here) sum[v] += gradient.get(v);
      }
    }
  }
  const std::size_t at = static_cast<std::size_t>(k) * kWidth;
  Pack<T, kWidth> values;
  if (accumulate) values = Pack<T, kWidth>::load(dx + at);
#pragma unroll
  for (int v = 0; v < kWidth; ++v) {
    const float value = g.max ? sum[v] : sum[v] / static_cast<float>(g.kernel * g.kernel);
    values.set(v, accumulate ? values.get(v) + value : value);
  }
  values.store(dx + at);
}

/// Calls visit(a value of the tensor's type, kWidth): the channels per thread, 16 bytes where that many are adjacent.
template <class Visit>
void visit_vectors(const Tensor& t, Visit visit) {
  visit_type(t.type, [&](auto value) {
    constexpr int kFull = kFullWidth<decltype(value)>;
    if (t.layout == Layout::channels_last && t.shape.c() % kFull == 0)
      return visit(value, std::integral_constant<int, kFull>{});
    visit(value, std::integral_constant<int, 1>{});
  });
}

}  // namespace

void global_average(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n) {
  const unsigned count = threads_for(n * x.shape.c());
  visit_type(x.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("global average", average_kernel<T>, blocks_for(count, kThreads), kThreads, x.as<const T>(), y.as<T>(),
                 Places(x), count);
  });
}

void global_average_backward(Queue& queue, const Tensor& dy, const Tensor& dx, std::int64_t n, bool accumulate) {
  const unsigned count = threads_for(n * dx.sample_stride());
  const float share = 1 / static_cast<float>(dx.shape.spatial());
  visit_type(dx.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("global average, backward", average_backward_kernel<T>, blocks_for(count, kThreads), kThreads,
                 dy.as<const T>(), dx.as<T>(), Places(dx), share, count, accumulate);
  });
}

void reorder(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n, bool accumulate) {
  const Shape& shape = x.shape.rank() >= y.shape.rank() ? x.shape : y.shape;
  const unsigned count = threads_for(n * y.sample_stride());
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
  visit_vectors(y, [&](auto value, auto width) {
    using T = decltype(value);
    const unsigned count = threads_for(n * y.sample_stride() / width());
    queue.launch("pooling", pool_kernel<T, width()>, blocks_for(count, kThreads), kThreads, Window(g), Places(x),
                 Places(y), x.as<const T>(), y.as<T>(), places, count);
  });
}

void pool_backward(Queue& queue, const PoolGeometry& g, const Tensor& dy, const Tensor& dx, const std::uint8_t* places,
                   std::int64_t n, bool accumulate) {
  visit_vectors(dx, [&](auto value, auto width) {
    using T = decltype(value);
    const unsigned count = threads_for(n * dx.sample_stride() / width());
    queue.launch("pooling, backward", pool_backward_kernel<T, width()>, blocks_for(count, kThreads), kThreads,
                 Window(g), Places(dx), Places(dy), dy.as<const T>(), dx.as<T>(), places, count, accumulate);
  });
}

}  // namespace syncbn::ops::cuda
