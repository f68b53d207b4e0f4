#pragma once

// The device under the kernels: return codes, the worker's stream, memory.

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

namespace syncbn::ops::cuda {

/// Throws Error unless `code` is success: "CUDA: <what>: <CUDA's own text> (device 0)".
void check(cudaError_t code, const char* what);

/// The stream of the calling worker's thread; made at the first call. Work of one worker is in the order of its calls.
cudaStream_t stream();
/// Waits for everything on the calling thread's stream, and reports what went wrong there.
void synchronize(const char* what);

/// Owner of zeroed device memory. Taken and given back in the order of the calling thread's stream, so that neither
/// stops the device; aligned to 256 bytes.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::size_t bytes);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;

  std::size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  /// At least `bytes`; what was in it is lost if it has to grow.
  void reserve(std::size_t bytes);

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Page-locked host memory, which the device can copy to and from while the processor does other work.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(std::size_t bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

/// Copies in the order of the calling thread's stream; host memory must be page-locked to make it asynchronous.
void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);

/// Memory that kernels of the calling thread's stream may overwrite in turn; grows to the largest request.
void* scratch(std::size_t bytes);

}  // namespace syncbn::ops::cuda
