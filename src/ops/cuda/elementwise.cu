// Elementwise kernels. Minimum: each input read and each output written once.

#include "ops/cuda/kernels.cuh"
#include "ops/cuda/philox.cuh"
#include "ops/cuda/vectors.cuh"
#include "ops/dropout_key.hpp"

namespace syncbn::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;

/// What a kernel computes from its inputs a and b.
enum class Rule { copy, add, relu, leaky_relu, sigmoid, tanh, relu_back, leaky_relu_back, sigmoid_back, tanh_back };

__device__ float sigmoid(float x) {
  const float e = expf(-fabsf(x)), r = 1 / (1 + e);  // exp of a negative number does not overflow
  return x < 0 ? e * r : r;
}

__device__ float evaluate(Rule rule, float a, float b, float slope) {
  switch (rule) {
    case Rule::copy:
      return a;
    case Rule::add:
      return a + b;
    case Rule::relu:
      return a < 0 ? 0 : a;
    case Rule::leaky_relu:
      return a < 0 ? slope * a : a;
    case Rule::sigmoid:
      return sigmoid(a);
    case Rule::tanh:
      return tanhf(a);
    case Rule::relu_back:
      return a > 0 ? b : 0;
    case Rule::leaky_relu_back:
      return a > 0 ? b : slope * b;
    case Rule::sigmoid_back:
      return b * (a * (1 - a));
    case Rule::tanh_back:
      return b * fmaf(-a, a, 1.0f);
  }
  return 0;
}

template <class T, int kWidth>
__global__ void rule_kernel(Rule rule, float slope, const T* a, const T* b, T* y, std::int64_t vectors,
                            bool accumulate) {
  using Vector = Pack<T, kWidth>;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= vectors) return;
  const Vector left = Vector::load(a + i * kWidth);
  Vector right = left, out;
  if (b) right = Vector::load(b + i * kWidth);
  if (accumulate) out = Vector::load(y + i * kWidth);
#pragma unroll
  for (int v = 0; v < kWidth; ++v) {
    const float value = evaluate(rule, left.get(v), right.get(v), slope);
    out.set(v, accumulate ? out.get(v) + value : value);
  }
  out.store(y + i * kWidth);
}

bool aligned(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

void run(Queue& queue, const char* what, Rule rule, float slope, const Tensor& a, const Tensor& b, const Tensor& y,
         std::int64_t n, bool accumulate) {
  const std::int64_t count = n * a.sample_stride();
  visit_type(a.type, [&](auto value) {
    using T = decltype(value);
    constexpr int kFull = kFullWidth<T>;
    const bool full = count % kFull == 0 && aligned(a.data) && aligned(b.data) && aligned(y.data);
    const std::int64_t vectors = full ? count / kFull : count;
    queue.launch(what, full ? rule_kernel<T, kFull> : rule_kernel<T, 1>, blocks_for(vectors, kThreads), kThreads, rule,
                 slope, a.as<const T>(), b.as<const T>(), y.as<T>(), vectors, accumulate);
  });
}

Rule rule_of(Activation kind, bool backward) {
  switch (kind) {
    case Activation::leaky_relu:
      return backward ? Rule::leaky_relu_back : Rule::leaky_relu;
    case Activation::sigmoid:
      return backward ? Rule::sigmoid_back : Rule::sigmoid;
    case Activation::tanh:
      return backward ? Rule::tanh_back : Rule::tanh;
    case Activation::relu:
      break;
  }
  return backward ? Rule::relu_back : Rule::relu;
}

/// One thread per four neighbours in channels_first order, which share a block of random numbers.
template <class T>
__global__ void dropout_kernel(const T* x, T* y, std::int64_t quads, std::int64_t per_sample, std::int64_t channels,
                               bool channels_last, float p, float scale, std::uint64_t seed, std::uint64_t step,
                               std::uint64_t layer_key, const std::int64_t* sample_ids, bool accumulate) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t quads_per_sample = (per_sample + 3) / 4;
  if (i >= quads) return;
  const std::int64_t sample = i / quads_per_sample, first = i % quads_per_sample * 4;
  const std::uint64_t key = dropout_key(layer_key, sample_ids[sample]);
  const Philox::Block bits = Philox(seed, Purpose::dropout, step, key).block(static_cast<std::uint32_t>(first / 4));
  const std::int64_t spatial = per_sample / channels;
  for (int k = 0; k < 4 && first + k < per_sample; ++k) {
    const std::int64_t at = first + k;
    const std::int64_t inside = channels_last ? at % spatial * channels + at / spatial : at;
    const std::int64_t place = sample * per_sample + inside;
    const float keep = Philox::uniform(bits.word[k]) < p ? 0.0f : to_float(x[place]) * scale;
    y[place] = from_float<T>(accumulate ? to_float(y[place]) + keep : keep);
  }
}

/// One thread per position of an image: neighbouring threads read neighbouring bytes of each channel.
template <class T>
__global__ void look_up_kernel(const std::uint8_t* bytes, const float* values, T* y, std::int64_t positions,
                               std::int64_t spatial, std::int64_t channels, bool channels_last) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= positions) return;
  const std::int64_t plane = i / spatial * channels, inside = i % spatial;
  for (std::int64_t c = 0; c < channels; ++c) {
    const std::int64_t from = (plane + c) * spatial + inside;
    y[channels_last ? i * channels + c : from] = from_float<T>(values[256 * c + bytes[from]]);
  }
}

}  // namespace

void activate(Queue& queue, Activation kind, float slope, const Tensor& x, const Tensor& y, std::int64_t n) {
  run(queue, "activation", rule_of(kind, false), slope, x, {}, y, n, false);
}

void activate_backward(Queue& queue, Activation kind, float slope, const Tensor& y, const Tensor& dy, const Tensor& dx,
                       std::int64_t n, bool accumulate) {
  run(queue, "activation, backward", rule_of(kind, true), slope, y, dy, dx, n, accumulate);
}

void add(Queue& queue, const Tensor& a, const Tensor& b, const Tensor& y, std::int64_t n) {
  run(queue, "addition", Rule::add, 0, a, b, y, n, false);
}

void copy(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n, bool accumulate) {
  run(queue, "copy", Rule::copy, 0, x, {}, y, n, accumulate);
}

void look_up(Queue& queue, const std::uint8_t* bytes, const float* values, const Tensor& y, std::int64_t n) {
  const std::int64_t spatial = y.shape.spatial();
  visit_type(y.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("look-up of pixels", look_up_kernel<T>, blocks_for(n * spatial, kThreads), kThreads, bytes, values,
                 y.as<T>(), n * spatial, spatial, y.shape.c(), y.layout == Layout::channels_last);
  });
}

void dropout(Queue& queue, const Tensor& x, const Tensor& y, std::int64_t n, float p, std::uint64_t seed,
             std::uint64_t step, std::uint64_t layer_key, const std::int64_t* sample_ids, bool accumulate) {
  const std::int64_t per_sample = x.sample_stride(), quads = n * ((per_sample + 3) / 4);
  visit_type(x.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("dropout", dropout_kernel<T>, blocks_for(quads, kThreads), kThreads, x.as<const T>(), y.as<T>(), quads,
                 per_sample, x.shape.c(), x.layout == Layout::channels_last, p, 1 / (1 - p), seed, step, layer_key,
                 sample_ids, accumulate);
  });
}

}  // namespace syncbn::ops::cuda
