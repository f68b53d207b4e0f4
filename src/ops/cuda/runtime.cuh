#pragma once

// The CUDA runtime for the kernels: return codes, a worker's queue, memory.

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

namespace syncbn::ops::cuda {

[[noreturn]] void throw_error(cudaError_t code, std::string_view what);
/// Throws DeviceError unless `code` is success: "CUDA: <what>: <CUDA's own text> (cudaErrorLaunchFailure, device 0)".
inline void check(cudaError_t code, std::string_view what) {
  if (code != cudaSuccess) throw_error(code, what);
}
/// Throws a library's DeviceError: "<library>: <what>: <its own text> (device 0)", followed by CUDA's error, if any.
[[noreturn]] void throw_library_error(const char* library, const std::string& what, const char* text);

/// Owner of an object that a library creates in *place() and destroys.
template <class T, auto kDestroy>
class Handle {
 public:
  Handle() = default;
  ~Handle() {
    if (value_) kDestroy(value_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  T* place() { return &value_; }
  operator T() const { return value_; }

 private:
  T value_ = nullptr;
};

class Queue;

/// Held while something is queued. While a capture is open, threads that add to it take turns, because CUDA does not
/// serialize additions to a graph; otherwise it only checks a flag.
class Turn {
 public:
  Turn();
  /// Marks the beginning and end of a capture; one at a time.
  static void capture(bool open);

 private:
  std::unique_lock<std::recursive_mutex> lock_;
};

/// Owner of memory that belongs to a queue, which must outlive it. Place::take() and Place::give_back() define its
/// kind.
template <class Place>
class QueueMemory {
 public:
  QueueMemory() = default;
  QueueMemory(Queue& queue, std::size_t bytes)
      : queue_(&queue), data_(bytes > 0 ? Place::take(queue, bytes) : nullptr), size_(bytes) {}
  ~QueueMemory() {
    if (data_) Place::give_back(*queue_, data_);
  }
  QueueMemory(QueueMemory&& other) noexcept
      : queue_(other.queue_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  QueueMemory& operator=(QueueMemory&& other) noexcept {
    std::swap(queue_, other.queue_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  std::size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Queue* queue_ = nullptr;
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Device memory, zeroed, aligned to 256 bytes. Allocated and freed in the order of the queue, so that neither stalls
/// the device.
struct OnDevice {
  static void* take(Queue& queue, std::size_t bytes);
  static void give_back(Queue& queue, void* data) noexcept;
};
/// Page-locked CPU memory: the device can copy to and from it while the CPU does other work. Freed after waiting for
/// the queue, because a copy may be under way.
struct Pinned {
  static void* take(Queue& queue, std::size_t bytes);
  static void give_back(Queue& queue, void* data) noexcept;
};
using DeviceMemory = QueueMemory<OnDevice>;
using PinnedMemory = QueueMemory<Pinned>;

/// A position in a queue. An event that has not been recorded counts as passed.
class Event {
 public:
  /// What the thread does in wait(): spin, for the shortest latency, or sleep, to free its core.
  enum class Wait : unsigned { spinning = 0, asleep = cudaEventBlockingSync };
  explicit Event(Wait wait = Wait::spinning);  ///< on the device in use
  cudaEvent_t get() const { return event_; }
  void wait() const;
  bool passed() const;

 private:
  Handle<cudaEvent_t, cudaEventDestroy> event_;
};

/// One worker's queue of work, which the device executes in the order of the calls; queues of one device run
/// concurrently. Calls return at once, except synchronize(). To be used by one thread at a time, except follow().
class Queue {
 public:
  /// `urgent`: its kernels run before those of other queues that are ready as well.
  explicit Queue(int device, bool urgent = false);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }

  /// Asynchronous if host memory is page-locked.
  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
  void clear(void* data, std::size_t bytes);
  /// Copies from any CPU memory, which may be changed on return.
  void upload(void* to, const void* from, std::size_t bytes);
  void record(const Event& event);
  /// Makes all further work wait for the event.
  void follow(const Event& event);
  /// Waits until everything is done, and throws errors that occurred since, naming the last launch.
  void synchronize();

  /// Returns memory for the next launch only: any later launch may overwrite it. Grows to the largest request.
  template <class T>
  T* scratch(std::size_t count) {
    return static_cast<T*>(scratch_bytes(count * sizeof(T)));
  }
  /// How often scratch memory of any queue has been replaced by larger memory; graphs captured before must not run
  /// again.
  static std::uint64_t scratch_moves();

  /// Launches a kernel; an empty grid does nothing. `what` names it in errors and must be a literal.
  template <class... Parameters, class... Arguments>
  void launch(const char* what, void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments&&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
    use_device();
    const Turn turn;
    last_launch_ = what;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = stream_;
    check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), what);
  }

 private:
  friend struct OnDevice;
  friend struct Pinned;
  void use_device() const;
  void* scratch_bytes(std::size_t bytes);

  int device_;
  Handle<cudaStream_t, cudaStreamDestroy> stream_;
  const char* last_launch_ = "nothing yet";
  DeviceMemory scratch_;

  /// Page-locked memory for uploads; several, so that one need not wait for the previous one.
  struct Stage {
    PinnedMemory memory;
    Event done;
  };
  std::array<Stage, 4> stages_;
  std::size_t next_stage_ = 0;
};

/// Number of blocks of this size that cover `count`.
inline unsigned blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace syncbn::ops::cuda
