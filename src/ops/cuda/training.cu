// The end of a step: the loss, and sums over flat buffers and messages.

#include <algorithm>

#include "ops/cuda/kernels.cuh"
#include "ops/cuda/vectors.cuh"
#include "ops/cuda/warp.cuh"

namespace syncbn::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;

__device__ std::int64_t this_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

/// One warp per sample; per_sample[2 * n] receives its loss and whether the prediction was right.
template <class T>
__global__ void loss_kernel(const T* logits, const int* labels, int classes, double smoothing, double scale,
                            T* d_logits, double* per_sample) {
  const std::int64_t n = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x), label = labels[n];
  const T* z = logits + n * classes;
  // The maximum, the first of equal values; NaN is the maximum only if it is a lane's first value.
  float top = -INFINITY;
  int best = classes;
  for (int k = lane; k < classes; k += kWarp) {
    const float value = to_float(z[k]);
    if (best == classes || value > top) top = value, best = k;
  }
  for (unsigned distance = kWarp / 2; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(0xffffffffU, top, distance);
    const int place = __shfl_xor_sync(0xffffffffU, best, distance);
    if (place < classes && (best == classes || other > top || (other == top && place < best)))
      top = other, best = place;
  }
  double denominator = 0, off_sum = 0;
  for (int k = lane; k < classes; k += kWarp) {
    const double distance = static_cast<double>(to_float(z[k])) - top;
    denominator += exp(distance);
    off_sum += distance;
  }
  denominator = warp_sum(denominator);
  off_sum = warp_sum(off_sum);
  const double off_target = smoothing / classes;
  if (lane == 0) {
    const double target = static_cast<double>(to_float(z[label])) - top;
    per_sample[2 * n] = log(denominator) - (1 - smoothing) * target - off_target * off_sum;
    per_sample[2 * n + 1] = best == label && isfinite(denominator) ? 1 : 0;
  }
  if (!d_logits) return;
  for (int k = lane; k < classes; k += kWarp) {
    const double probability = exp(static_cast<double>(to_float(z[k])) - top) / denominator;
    const double gradient = scale * (probability - off_target - (k == label ? 1 - smoothing : 0.0));
    d_logits[n * classes + k] = from_float<T>(static_cast<float>(gradient));
  }
}

/// Adds up pairs of values with one warp.
__global__ void add_pairs_kernel(const double* pairs, std::int64_t n, double* result) {
  double first = 0, second = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kWarp) first += pairs[2 * i], second += pairs[2 * i + 1];
  first = warp_sum(first);
  second = warp_sum(second);
  if (threadIdx.x == 0) result[0] += first, result[1] += second;
}

__global__ void add_flat_kernel(const float* left, const float* right, float* to, std::int64_t count) {
  const std::int64_t i = this_thread();
  if (i < count) to[i] = left[i] + right[i];
}

/// Arguments of one launch of add_rows_kernel, passed by value.
struct RowPairs {
  static constexpr std::size_t kMost = 120;
  int count;
  std::int32_t into[kMost], from[kMost];
};

/// Minimum: the time of a launch. Rows are short and usually few, so one thread handles a column; hundreds of rows
/// would need a kernel that adds pairs in parallel.
__global__ void add_rows_kernel(double* rows, std::int64_t stride, RowPairs pairs, std::int64_t count) {
  const std::int64_t i = this_thread();
  if (i >= count) return;
  for (int k = 0; k < pairs.count; ++k) rows[pairs.into[k] * stride + i] += rows[pairs.from[k] * stride + i];
}

/// to = keep * to + share * values
__global__ void blend_kernel(const double* values, double keep, double share, float* to, std::int64_t count) {
  const std::int64_t i = this_thread();
  if (i < count) to[i] = static_cast<float>(keep * to[i] + share * values[i]);
}

/// Arguments of one launch of running_kernel, passed by value.
struct RunningTable {
  static constexpr std::size_t kMost = 120;
  Device::Running entry[kMost];
};

/// One row of blocks per entry.
__global__ void running_kernel(RunningTable table) {
  const Device::Running& e = table.entry[blockIdx.y];
  const std::int64_t i = this_thread();
  if (i < e.count) e.running[i] = *e.kept * e.running[i] + e.contribution[i];
}

}  // namespace

void softmax_loss(Queue& queue, const Tensor& logits, const int* labels, std::int64_t n, double smoothing, double scale,
                  const Tensor& d_logits, double* result) {
  double* per_sample = queue.scratch<double>(static_cast<std::size_t>(2 * n));
  visit_type(logits.type, [&](auto value) {
    using T = decltype(value);
    queue.launch("loss", loss_kernel<T>, static_cast<unsigned>(n), kWarp, logits.as<const T>(), labels,
                 static_cast<int>(logits.shape.c()), smoothing, scale, d_logits.as<T>(), per_sample);
  });
  if (n > 0) queue.launch("sum of the losses", add_pairs_kernel, 1, kWarp, per_sample, n, result);
}

void add_flat(Queue& queue, const float* left, const float* right, float* to, std::int64_t count) {
  queue.launch("sum of gradients", add_flat_kernel, blocks_for(count, kThreads), kThreads, left, right, to, count);
}

void add_rows(Queue& queue, double* rows, std::int64_t stride, std::span<const std::pair<int, int>> pairs,
              std::int64_t count) {
  for (std::size_t begin = 0; begin < pairs.size(); begin += RowPairs::kMost) {
    RowPairs some{};
    for (const auto& [into, from] : pairs.subspan(begin, std::min(RowPairs::kMost, pairs.size() - begin))) {
      some.into[some.count] = into;
      some.from[some.count++] = from;
    }
    queue.launch("sum of messages", add_rows_kernel, blocks_for(count, kThreads), kThreads, rows, stride, some, count);
  }
}

void blend(Queue& queue, const double* values, double keep, double share, float* to, std::int64_t count) {
  queue.launch("sum with the processor's", blend_kernel, blocks_for(count, kThreads), kThreads, values, keep, share, to,
               count);
}

void update_running(Queue& queue, std::span<const Device::Running> all) {
  for (std::size_t begin = 0; begin < all.size(); begin += RunningTable::kMost) {
    const auto some = all.subspan(begin, std::min(RunningTable::kMost, all.size() - begin));
    RunningTable table{};
    std::copy(some.begin(), some.end(), table.entry);
    std::int64_t longest = 0;
    for (const Device::Running& e : some) longest = std::max(longest, e.count);
    queue.launch("running statistics", running_kernel,
                 dim3(blocks_for(longest, kThreads), static_cast<unsigned>(some.size())), kThreads, table);
  }
}

}  // namespace syncbn::ops::cuda
