#include <fmt/format.h>

#include <algorithm>

#include "core/round_up.hpp"
#include "ops/cuda/batch_norm.cuh"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

/// Carves arrays out of a block of memory, each at a multiple of 256 bytes; without memory it only counts bytes.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T>
  T* take(std::int64_t count) {
    T* start = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += round_up<std::size_t>(static_cast<std::size_t>(count) * sizeof(T), 256);
    return start;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

ChannelArrays carve(Carver& carver, std::int64_t c) {
  ChannelArrays a{};
  a.message = carver.take<double>(1 + 2 * c);
  a.backward_message = carver.take<double>(2 * c);
  a.count = carver.take<double>(1);
  for (double** array : {&a.mean, &a.var, &a.invstd, &a.gain}) *array = carver.take<double>(c);
  for (float** array : {&a.center, &a.scale, &a.shift, &a.p, &a.q, &a.r}) *array = carver.take<float>(c);
  a.arrived = carver.take<unsigned>(block_counters(c));
  return a;
}

}  // namespace

BatchNorm::BatchNorm(Queue& queue, std::int64_t channels, double eps, std::int64_t each)
    : queue_(queue), channels_(channels), eps_(eps), each_(each > 0) {
  Carver counter(nullptr);
  carve(counter, channels);
  memory_ = DeviceMemory(queue, counter.used() * static_cast<std::size_t>(std::max<std::int64_t>(1, each)));
  Carver carver(memory_.as<std::byte>());
  arrays_ = carve(carver, channels);
  arrays_.bytes = carver.used();
}

void BatchNorm::require_alike(const Tensor& x, std::initializer_list<const Tensor*> others) const {
  const auto refuse = [&](const std::string& why) {
    throw Error(fmt::format("CUDA: batch norm of {} channels: {}", channels_, why), ExitCode::usage);
  };
  if (x.shape.c() != channels_) refuse(fmt::format("x is {}", x.shape.str()));
  if (block_of(x.layout) != 1) refuse(fmt::format("layout {} is the CPU's", name_of(x.layout)));
  for (const Tensor* t : others) {
    if (!*t) continue;
    if (t->type != x.type || t->layout != x.layout || t->sample_stride() != x.sample_stride()) {
      refuse(fmt::format("{} {} {} beside {} {} {}", t->shape.str(), name_of(t->type), name_of(t->layout),
                         x.shape.str(), name_of(x.type), name_of(x.layout)));
    }
  }
}

void BatchNorm::statistics(std::span<double> mean, std::span<double> var) {
  queue_.copy(mean.data(), arrays_.mean, mean.size_bytes(), cudaMemcpyDeviceToHost);
  queue_.copy(var.data(), arrays_.var, var.size_bytes(), cudaMemcpyDeviceToHost);
  queue_.synchronize();
}

void BatchNorm::set_map(const ChannelMap& map) {
  queue_.upload(arrays_.mean, map.center.data(), static_cast<std::size_t>(channels_) * sizeof(double));
  upload({&map.center_f, &map.scale_f, &map.shift_f}, arrays_.center, arrays_.scale - arrays_.center);
}

void BatchNorm::set_gradient(const GradientMap& gradient) {
  upload({&gradient.p_f, &gradient.q_f, &gradient.r_f}, arrays_.p, arrays_.q - arrays_.p);
}

void BatchNorm::upload(std::initializer_list<const std::vector<float>*> arrays, float* first, std::ptrdiff_t distance) {
  const auto c = static_cast<std::size_t>(channels_), step = static_cast<std::size_t>(distance);
  std::vector<float> all((arrays.size() - 1) * step + c);
  std::size_t at = 0;
  for (const std::vector<float>* array : arrays) {
    std::copy_n(array->begin(), c, all.data() + at);
    at += step;
  }
  queue_.upload(first, all.data(), all.size() * sizeof(float));
}

}  // namespace syncbn::ops::cuda
