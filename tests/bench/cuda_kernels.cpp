// Usage: bench_cuda_kernels [SAMPLES ...]
//
// The batch norm kernels on the shapes of ResNet-50 (224x224) against the bandwidth of the device's own copy in the
// same run. A row counts the bytes that have to move at least; buffers rotate, so that none is still in the cache.

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <vector>

#include "ops/cuda/batch_norm.cuh"
#include "ops/cuda/kernels.cuh"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

using ops::FusedRelu;
using ops::cuda::BatchNorm;
using ops::cuda::check;
using ops::cuda::DeviceMemory;
using ops::cuda::Queue;

constexpr std::size_t kCold = std::size_t{512} << 20;  // several times the largest second-level cache
constexpr int kBlocks = 7;
constexpr double kBlock_ms = 4;

/// Median time of one call of body(i), in seconds; i counts up, so that the caller can rotate buffers.
double seconds_of(Queue& queue, const std::function<void(int)>& body) {
  cudaEvent_t begin{}, end{};
  check(cudaEventCreate(&begin), "making an event");
  check(cudaEventCreate(&end), "making an event");
  int i = 0;
  for (; i < 5; ++i) body(i);
  std::vector<double> times;
  int calls = 5;
  for (int block = -1; block < kBlocks; ++block) {  // the first finds out how many calls take some milliseconds
    check(cudaEventRecord(begin, queue.stream()), "recording an event");
    for (int k = 0; k < calls; ++k) body(i++);
    check(cudaEventRecord(end, queue.stream()), "recording an event");
    queue.synchronize();
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "reading an event");
    if (block < 0) {
      calls = std::clamp(static_cast<int>(kBlock_ms * calls / std::max(milliseconds, 0.01F)), 3, 2000);
    } else {
      times.push_back(milliseconds / 1000 / calls);
    }
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Bytes per second, read and written.
double copy_bandwidth(Queue& queue) {
  const std::size_t bytes = std::size_t{1} << 30;
  const DeviceMemory from(queue, bytes), to(queue, bytes);
  const double seconds =
      seconds_of(queue, [&](int) { queue.copy(to.as<void>(), from.as<void>(), bytes, cudaMemcpyDeviceToDevice); });
  return 2 * static_cast<double>(bytes) / seconds;
}

/// Tensors of one shape, as many as do not fit into the cache.
class Rotating {
 public:
  Rotating(Queue& queue, const Tensor& like, std::size_t sets, const DeviceMemory& noise) : like_(like) {
    for (std::size_t i = 0; i < sets; ++i) {
      memory_.emplace_back(queue, like.bytes());
      for (std::size_t at = 0; at < like.bytes(); at += noise.size()) {
        queue.copy(memory_.back().as<char>() + at, noise.as<void>(), std::min(noise.size(), like.bytes() - at),
                   cudaMemcpyDeviceToDevice);
      }
    }
  }
  Tensor operator[](int i) const {
    Tensor t = like_;
    t.data = memory_[static_cast<std::size_t>(i) % memory_.size()].as<void>();
    return t;
  }

 private:
  Tensor like_;
  std::vector<DeviceMemory> memory_;
};

/// Normal values of the type: zeros would run faster than real data.
DeviceMemory make_noise(Queue& queue, DataType type) {
  constexpr std::int64_t kCount = 1 << 18;
  std::vector<float> values(kCount);
  Random random(1, Purpose::test);
  for (float& v : values) v = static_cast<float>(random.normal());
  DeviceMemory wide(queue, values.size() * sizeof(float)), noise(queue, values.size() * size_of(type));
  queue.copy(wide.as<void>(), values.data(), wide.size(), cudaMemcpyHostToDevice);
  Tensor from, to;
  from.shape = to.shape = {1, kCount};
  from.data = wide.as<void>();
  to.data = noise.as<void>();
  to.type = type;
  ops::cuda::reorder(queue, from, to, 1, false);
  queue.synchronize();
  return noise;
}

struct Map {
  std::int64_t channels, size;
};

void measure(Queue& queue, DataType type, std::int64_t n, const Map& map, double copy) {
  Tensor like;
  like.shape = {n, map.channels, map.size, map.size};
  like.type = type;
  like.layout = Layout::channels_last;
  const std::size_t sets = kCold / like.bytes() + 2;
  const DeviceMemory noise = make_noise(queue, type);
  const Rotating x(queue, like, sets, noise), y(queue, like, sets, noise), z(queue, like, sets, noise),
      w(queue, like, sets, noise);
  BatchNorm norm(queue, map.channels, 1e-5);
  const DeviceMemory mask(queue, static_cast<std::size_t>(n * BatchNorm::mask_bytes_per_sample(like)));
  auto* bits = mask.as<std::uint8_t>();
  const auto bytes = static_cast<double>(like.bytes());
  const auto row = [&](const char* what, double tensors, const std::function<void(int)>& body) {
    const double seconds = seconds_of(queue, body);
    const double rate = tensors * bytes / seconds;
    fmt::print("{:>4} {:>4} {:>5} {:>4}  {:<28} {:>8.1f} us {:>8.0f} GB/s {:>5.0f} %\n", name_of(type), n, map.channels,
               map.size, what, 1e6 * seconds, rate / 1e9, 100 * rate / copy);
  };
  constexpr double kMask = 1.0 / 16;  // a byte for 16
  row("statistics", 1, [&](int i) { norm.sums(x[i], n, true, {}); });
  row("normalize + ReLU", 2, [&](int i) { norm.apply(x[i], {}, y[i], n, FusedRelu::recompute, nullptr); });
  row("normalize + add + ReLU", 3 + kMask, [&](int i) { norm.apply(x[i], z[i], y[i], n, FusedRelu::bits, bits); });
  row("forward + ReLU", 3, [&](int i) {
    norm.sums(x[i], n, true, {});
    norm.apply(x[i], {}, y[i], n, FusedRelu::recompute, nullptr);
  });
  row("sums of the gradient", 2,
      [&](int i) { norm.backward_sums(x[i], y[i], n, FusedRelu::recompute, nullptr, true); });
  row("gradient", 3,
      [&](int i) { norm.backward(x[i], y[i], z[i], {}, n, FusedRelu::recompute, nullptr, false, false); });
  row("backward + ReLU", 5, [&](int i) {
    norm.backward_sums(x[i], y[i], n, FusedRelu::recompute, nullptr, true);
    norm.backward(x[i], y[i], z[i], {}, n, FusedRelu::recompute, nullptr, false, false);
  });
  row("backward + add + ReLU", 6 + 2 * kMask, [&](int i) {
    norm.backward_sums(x[i], y[i], n, FusedRelu::bits, bits, true);
    norm.backward(x[i], y[i], z[i], w[i], n, FusedRelu::bits, bits, false, false);
  });
}

int run(int argc, char** argv) {
  std::vector<std::int64_t> samples;
  for (int i = 1; i < argc; ++i) samples.push_back(std::atoll(argv[i]));
  if (samples.empty()) samples = {64};
  Queue queue(0);
  const double copy = copy_bandwidth(queue);
  fmt::print("copy: {:.0f} GB/s, read and written\n", copy / 1e9);
  fmt::print("type    n     C size  kernel                             time         rate  of copy\n");
  for (const DataType type : {DataType::bf16, DataType::f32}) {
    for (const std::int64_t n : samples) {
      for (const Map& map : {Map{64, 112}, Map{64, 56}, Map{256, 56}, Map{128, 28}, Map{512, 28}, Map{256, 14},
                             Map{1024, 14}, Map{512, 7}, Map{2048, 7}}) {
        measure(queue, type, n, map, copy);
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace syncbn

int main(int argc, char** argv) {
  try {
    return syncbn::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
