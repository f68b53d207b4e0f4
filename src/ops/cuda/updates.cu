// Parameter updates from gradients, over whole flat buffers in one launch.
//
// Minimum: SGD with momentum reads the gradient and reads and writes parameters and momentum; Adam has one buffer more.
// The table of the slot that each 16 elements belong to adds a sixteenth of a read.

#include <algorithm>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/warp.cuh"

namespace syncbn::ops::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr int kUnit = 16;  // slots begin at multiples of this many elements
constexpr unsigned kShares = 32;

/// The slots, in device memory; arrays by unit and by slot.
struct Slots {
  const int* of_unit;  ///< -1: none
  const std::int64_t *begin, *end;
  const double* weight_decay;
};

/// This thread's element and its slot.
struct Element {
  std::int64_t i;
  int slot;

  __device__ Element(const Slots& slots, std::int64_t count)
      : i(static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x),
        slot(i < count ? slots.of_unit[i / kUnit] : -1) {
    if (slot >= 0 && i >= slots.end[slot]) slot = -1;
  }
};

__global__ void sgd_kernel(Slots slots, Updates::Sgd s, float* p, const float* gradient, float* momentum,
                           std::int64_t count) {
  const auto [i, slot] = Element(slots, count);
  if (slot < 0) return;
  float g = s.scale * gradient[i];
  g += static_cast<float>(slots.weight_decay[slot]) * p[i];
  if (momentum) {
    const float buffer = s.momentum * momentum[i] + g;
    momentum[i] = buffer;
    g = s.nesterov ? g + s.momentum * buffer : buffer;
  }
  p[i] -= s.lr * g;
}

__global__ void adagrad_kernel(Slots slots, float lr, float scale, float eps, float* p, const float* gradient,
                               float* sum, std::int64_t count) {
  const auto [i, slot] = Element(slots, count);
  if (slot < 0) return;
  float g = scale * gradient[i];
  g += static_cast<float>(slots.weight_decay[slot]) * p[i];
  const float total = sum[i] + g * g;
  sum[i] = total;
  p[i] -= lr * (g / (sqrtf(total) + eps));
}

__global__ void adam_kernel(Slots slots, Updates::Adam s, float* p, const float* gradient, float* mean, float* square,
                            std::int64_t count) {
  const auto [i, slot] = Element(slots, count);
  if (slot < 0) return;
  const double decay = slots.weight_decay[slot];
  float g = s.scale * gradient[i], value = p[i];
  if (s.decoupled) {
    value *= static_cast<float>(1 - s.lr * decay);
  } else {
    g += static_cast<float>(decay) * value;
  }
  const float m = s.beta1 * mean[i] + s.one_minus_beta1 * g;
  const float v = s.beta2 * square[i] + s.one_minus_beta2 * (g * g);
  mean[i] = m;
  square[i] = v;
  p[i] = value - s.rate * (m / (sqrtf(v) / s.correction + s.eps));
}

__global__ void lars_kernel(Slots slots, float momentum, float scale, const float* rates, float* p,
                            const float* gradient, float* velocity, std::int64_t count) {
  const auto [i, slot] = Element(slots, count);
  if (slot < 0) return;
  const float v = momentum * velocity[i] +
                  rates[slot] * (scale * gradient[i] + static_cast<float>(slots.weight_decay[slot]) * p[i]);
  velocity[i] = v;
  p[i] -= v;
}

__global__ void lamb_direction_kernel(Slots slots, Updates::Adam s, const float* p, const float* gradient, float* mean,
                                      float* square, float* direction, std::int64_t count) {
  const auto [i, slot] = Element(slots, count);
  if (slot < 0) return;
  const float g = s.scale * gradient[i];
  const float m = s.beta1 * mean[i] + s.one_minus_beta1 * g;
  const float v = s.beta2 * square[i] + s.one_minus_beta2 * (g * g);
  mean[i] = m;
  square[i] = v;
  direction[i] = (m / s.rate) / (sqrtf(v) / s.correction + s.eps) + static_cast<float>(slots.weight_decay[slot]) * p[i];
}

__global__ void descend_kernel(Slots slots, const float* rates, float* p, const float* direction, std::int64_t count) {
  const auto [i, slot] = Element(slots, count);
  if (slot >= 0) p[i] -= rates[slot] * direction[i];
}

/// shares[slot * kShares + b] is the sum over values b * kThreads + thread of the slot, in strides of kShares *
/// kThreads.
__global__ void __launch_bounds__(kThreads) squares_kernel(Slots slots, const float* values, double* shares) {
  __shared__ double of_warps[kThreads / kWarp];
  const std::int64_t end = slots.end[blockIdx.y];
  double sum = 0;
  for (std::int64_t i = slots.begin[blockIdx.y] + blockIdx.x * kThreads + threadIdx.x; i < end;
       i += kShares * kThreads) {
    sum += static_cast<double>(values[i]) * values[i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (unsigned w = 0; w < kThreads / kWarp; ++w) total += of_warps[w];
  shares[blockIdx.y * kShares + blockIdx.x] = total;
}

/// One warp per slot.
__global__ void add_shares_kernel(const double* shares, double* squares) {
  static_assert(kShares == kWarp);
  const double sum = warp_sum(shares[blockIdx.x * kShares + threadIdx.x]);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

class CudaUpdates final : public Updates {
 public:
  CudaUpdates(Queue& queue, const std::vector<Slot>& slots)
      : queue_(queue), slots_(slots.size()), rates_(queue, slots_ * sizeof(float)) {
    for (const Slot& s : slots) count_ = std::max(count_, s.offset + s.count);
    std::vector<int> of_unit(static_cast<std::size_t>((count_ + kUnit - 1) / kUnit), -1);
    std::vector<std::int64_t> begin, end;
    std::vector<double> weight_decay;
    for (const Slot& s : slots) {
      const auto first = of_unit.begin() + s.offset / kUnit;
      std::fill(first, first + (s.count + kUnit - 1) / kUnit, static_cast<int>(begin.size()));
      begin.push_back(s.offset);
      end.push_back(s.offset + s.count);
      weight_decay.push_back(s.weight_decay);
    }
    table_ = {keep(of_unit, 0), keep(begin, 1), keep(end, 2), keep(weight_decay, 3)};
  }

  void squares(const float* values, std::span<double> squares) override {
    if (slots_ == 0) return;
    double* shares = queue_.scratch<double>(slots_ * (kShares + 1));
    double* sums = shares + slots_ * kShares;
    const auto slots = static_cast<unsigned>(slots_);
    queue_.launch("squares of parameters", squares_kernel, dim3(kShares, slots), kThreads, table_, values, shares);
    queue_.launch("squares of parameters, shares", add_shares_kernel, slots, kWarp, shares, sums);
    queue_.copy(squares.data(), sums, slots_ * sizeof(double), cudaMemcpyDeviceToHost);
    queue_.synchronize();
  }
  void sgd(const Sgd& step, float* parameters, const float* gradient, float* momentum) override {
    launch("sgd", sgd_kernel, step, parameters, gradient, momentum);
  }
  void adagrad(float lr, float scale, float eps, float* parameters, const float* gradient, float* sum) override {
    launch("adagrad", adagrad_kernel, lr, scale, eps, parameters, gradient, sum);
  }
  void adam(const Adam& step, float* parameters, const float* gradient, float* mean, float* square) override {
    launch("adam", adam_kernel, step, parameters, gradient, mean, square);
  }
  void lars(float momentum, float scale, std::span<const float> rates, float* parameters, const float* gradient,
            float* velocity) override {
    launch("lars", lars_kernel, momentum, scale, upload(rates), parameters, gradient, velocity);
  }
  void lamb_direction(const Adam& step, const float* parameters, const float* gradient, float* mean, float* square,
                      float* direction) override {
    launch("lamb", lamb_direction_kernel, step, parameters, gradient, mean, square, direction);
  }
  void descend(std::span<const float> rates, float* parameters, const float* direction) override {
    launch("descent", descend_kernel, upload(rates), parameters, direction);
  }

 private:
  template <class T>
  const T* keep(const std::vector<T>& values, int place) {
    DeviceMemory& memory = tables_[place];
    memory = DeviceMemory(queue_, values.size() * sizeof(T));
    queue_.upload(memory.as<T>(), values.data(), values.size() * sizeof(T));
    return memory.as<T>();
  }
  const float* upload(std::span<const float> rates) {
    queue_.upload(rates_.as<float>(), rates.data(), rates.size_bytes());
    return rates_.as<float>();
  }
  template <class Kernel, class... Arguments>
  void launch(const char* what, Kernel kernel, Arguments... arguments) {
    queue_.launch(what, kernel, blocks_for(count_, kThreads), kThreads, table_, arguments..., count_);
  }

  Queue& queue_;
  std::size_t slots_;
  std::int64_t count_ = 0;
  DeviceMemory tables_[4], rates_;
  Slots table_{};
};

}  // namespace

std::unique_ptr<Updates> make_updates(Queue& queue, const std::vector<Updates::Slot>& slots) {
  return std::make_unique<CudaUpdates>(queue, slots);
}

}  // namespace syncbn::ops::cuda
