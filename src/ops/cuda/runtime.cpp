#include <fmt/format.h>

#include <utility>

#include "ops/cuda/runtime.cuh"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

/// What belongs to one thread. It is not given back at the thread's end: the context may be gone by then, and the
/// process ends with its threads.
struct ThreadState {
  cudaStream_t stream = nullptr;
  DeviceMemory scratch;
};

ThreadState& thread_state() {
  static thread_local ThreadState* state = nullptr;
  if (!state) {
    state = new ThreadState;
    check(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking), "making a stream");
  }
  return *state;
}

int current_device() {
  int device = -1;
  return cudaGetDevice(&device) == cudaSuccess ? device : -1;
}

}  // namespace

void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  throw Error(fmt::format("CUDA: {}: {} ({}, device {})", what, cudaGetErrorString(code), cudaGetErrorName(code),
                          current_device()));
}

cudaStream_t stream() {
  return thread_state().stream;
}

void synchronize(const char* what) {
  check(cudaStreamSynchronize(stream()), what);
}

DeviceMemory::DeviceMemory(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const cudaError_t code = cudaMallocAsync(&data_, bytes, stream());
  if (code == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // it stays set otherwise
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for the free memory");
    throw Error(
        fmt::format("CUDA: device {} has no {:.1f} MiB left ({:.1f} of {:.1f} MiB are free): use smaller batches "
                    "or fewer workers on it",
                    current_device(), static_cast<double>(bytes) / (1 << 20), static_cast<double>(free) / (1 << 20),
                    static_cast<double>(total) / (1 << 20)),
        ExitCode::unavailable);
  }
  check(code, "taking memory");
  check(cudaMemsetAsync(data_, 0, bytes, stream()), "clearing memory");
}

DeviceMemory::~DeviceMemory() {
  if (data_) cudaFreeAsync(data_, stream());
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void DeviceMemory::reserve(std::size_t bytes) {
  if (bytes > size_) *this = DeviceMemory(bytes);
}

PinnedMemory::PinnedMemory(std::size_t bytes) {
  if (bytes > 0) check(cudaMallocHost(&data_, bytes), "taking page-locked memory");
}

PinnedMemory::~PinnedMemory() {
  if (data_) cudaFreeHost(data_);
}

void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, kind, stream()), "copying");
}

void* scratch(std::size_t bytes) {
  ThreadState& state = thread_state();
  state.scratch.reserve(bytes);
  return state.scratch.as<void>();
}

}  // namespace syncbn::ops::cuda
