#include "ops/device.hpp"

#include <fmt/format.h>
#include <nvtx3/nvToolsExt.h>

#include <string_view>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/batch_norm.cuh"
#include "ops/cuda/kernels.cuh"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

class CudaMark final : public Mark {
 public:
  void wait() const override { event.wait(); }
  bool passed() const override { return event.passed(); }
  Event event;
};

/// Graphs allocate device memory when they are made and when they are started.
void check_graph(cudaError_t code, std::string_view what) {
  if (code != cudaErrorMemoryAllocation) return check(code, what);
  static_cast<void>(cudaGetLastError());  // clears the error, which would otherwise remain set
  int device = -1;
  cudaGetDevice(&device);
  throw DeviceError(
      fmt::format("CUDA: {}: {} ({}, device {})", what, cudaGetErrorString(code), cudaGetErrorName(code), device),
      "cuda_graphs=false does without the memory of graphs", ExitCode::unavailable);
}

class CudaGraph final : public Graph {
 public:
  /// `scratch_moves`: Queue::scratch_moves() when the capture began.
  CudaGraph(cudaGraph_t captured, std::uint64_t scratch_moves) : scratch_moves_(scratch_moves) {
    // Messages between workers go before computations, as in their queues.
    check_graph(cudaGraphInstantiateWithFlags(exec_.place(), captured, cudaGraphInstantiateFlagUseNodePriority),
                "making a graph of what was captured");
  }
  bool valid() const override { return scratch_moves_ == Queue::scratch_moves(); }
  cudaGraphExec_t get() const { return exec_; }

 private:
  Handle<cudaGraphExec_t, cudaGraphExecDestroy> exec_;
  std::uint64_t scratch_moves_;
};

std::size_t bytes_of(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(float);
}

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(Queue& queue)
      : queue_(queue),
        labels_(queue),
        values_(queue),
        loss_(queue, 2 * sizeof(double)),
        loss_here_(queue, 2 * sizeof(double)) {}

  std::string name() const override {
    std::array<char, 32> address{};
    check(cudaDeviceGetPCIBusId(address.data(), static_cast<int>(address.size()), queue_.device()),
          "asking where the device is");
    return address.data();
  }
  int index() const override { return queue_.device(); }
  void* native_queue() const override { return queue_.stream(); }

  std::unique_ptr<Mark> make_mark() const override {
    check(cudaSetDevice(queue_.device()), "choosing the device");
    return std::make_unique<CudaMark>();
  }
  void set(Mark& mark) const override { queue_.record(static_cast<CudaMark&>(mark).event); }
  void follow(const Mark& mark) const override { queue_.follow(static_cast<const CudaMark&>(mark).event); }

  void finish() const override { queue_.synchronize(); }

  // Relaxed mode: other threads may allocate memory, or wait for work that is not captured.
  void begin_capture() const override {
    scratch_moves_ = Queue::scratch_moves();
    Turn::capture(true);
    check(cudaStreamBeginCapture(queue_.stream(), cudaStreamCaptureModeRelaxed), "beginning a capture");
  }
  std::unique_ptr<Graph> end_capture() const override {
    Handle<cudaGraph_t, cudaGraphDestroy> captured;
    Turn::capture(false);  // all queues have joined again
    check(cudaStreamEndCapture(queue_.stream(), captured.place()), "ending a capture");
    return std::make_unique<CudaGraph>(captured, scratch_moves_);
  }
  void launch(const Graph& graph) const override {
    check_graph(cudaGraphLaunch(static_cast<const CudaGraph&>(graph).get(), queue_.stream()), "starting a graph");
  }

  // Not nested ranges (nvtxRangePush), because workers may alternate on a thread within one.
  std::uint64_t open_range(const char* name) const override { return nvtxRangeStartA(name); }
  void close_range(std::uint64_t range) const override { nvtxRangeEnd(range); }

  std::shared_ptr<void> pin(void* data, std::size_t bytes) const override {
    if (bytes == 0 || cudaHostRegister(data, bytes, cudaHostRegisterDefault) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return nullptr;
    }
    return {data, [this](void* pinned) {
              cudaStreamSynchronize(queue_.stream());
              cudaHostUnregister(pinned);
            }};
  }
  void start_download(const void* from, void* to, std::size_t bytes) const override {
    queue_.copy(to, from, bytes, cudaMemcpyDeviceToHost);
  }
  void start_upload(const void* from, void* to, std::size_t bytes) const override {
    queue_.copy(to, from, bytes, cudaMemcpyHostToDevice);
  }
  void upload_ahead(const void* from, void* to, std::size_t bytes, const Mark& free) const override {
    if (!ahead_) ahead_ = std::make_unique<Ahead>(queue_.device());
    ahead_->queue.follow(static_cast<const CudaMark&>(free).event);
    ahead_->queue.upload(to, from, bytes);
    ahead_->queue.record(ahead_->arrived);
    queue_.follow(ahead_->arrived);
  }

  void clear(float* values, std::int64_t count) const override { queue_.clear(values, bytes_of(count)); }
  void copy(const void* from, void* to, std::size_t bytes) const override {
    queue_.copy(to, from, bytes, cudaMemcpyDeviceToDevice);
  }
  void add(const float* left, const float* right, float* to, std::int64_t count) const override {
    add_flat(queue_, left, right, to, count);
  }
  void add_rows(double* rows, std::int64_t stride, std::span<const std::pair<int, int>> pairs,
                std::int64_t count) const override {
    cuda::add_rows(queue_, rows, stride, pairs, count);
  }
  void blend(std::span<const double> values, double keep, double share, float* to) const override {
    cuda::blend(queue_, values_.upload(values.data(), values.size()), keep, share, to,
                static_cast<std::int64_t>(values.size()));
  }
  void update_running(std::span<const Running> all) const override { cuda::update_running(queue_, all); }

  void start_loss(const Tensor& logits, std::span<const int> labels, double smoothing, double scale,
                  const Tensor& d_logits) const override {
    queue_.clear(loss_.as<void>(), loss_.size());
    softmax_loss(queue_, logits, labels_.upload(labels.data(), labels.size()), static_cast<std::int64_t>(labels.size()),
                 smoothing, scale, d_logits, loss_.as<double>());
    queue_.copy(loss_here_.as<void>(), loss_.as<void>(), loss_.size(), cudaMemcpyDeviceToHost);
    queue_.record(loss_arrived_);
  }
  Loss finish_loss() const override {
    loss_arrived_.wait();
    return {loss_here_.as<double>()[0], static_cast<std::int64_t>(loss_here_.as<double>()[1])};
  }

  std::unique_ptr<Normalization> normalization(std::int64_t channels, double eps) const override {
    return std::make_unique<BatchNorm>(queue_, channels, eps);
  }
  std::unique_ptr<Updates> updates(const std::vector<Updates::Slot>& slots) const override {
    return make_updates(queue_, slots);
  }

 private:
  struct Ahead {
    explicit Ahead(int device) : queue(device) {}
    Queue queue;
    Event arrived;
  };

  Queue& queue_;
  mutable std::unique_ptr<Ahead> ahead_;
  mutable Staging<int> labels_;
  mutable Staging<double> values_;
  DeviceMemory loss_;
  PinnedMemory loss_here_;
  Event loss_arrived_{Event::Wait::asleep};  // the wait takes most of a step
  mutable std::uint64_t scratch_moves_ = 0;  // when the capture began
};

}  // namespace

std::unique_ptr<Device> make_device(Queue& queue) {
  return std::make_unique<CudaDevice>(queue);
}

}  // namespace syncbn::ops::cuda
