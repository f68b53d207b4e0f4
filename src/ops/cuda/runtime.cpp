#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "ops/cuda/runtime.cuh"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

std::atomic<std::uint64_t> times_scratch_moved{0};
std::atomic<bool> capturing{false};
std::recursive_mutex one_turn;

double mebibytes(std::size_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

[[noreturn]] void report_full(int device, std::size_t wanted) {
  static_cast<void>(cudaGetLastError());  // clears the error, which would otherwise remain set
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for the free memory");
  throw DeviceError(fmt::format("CUDA: device {} cannot give {:.1f} MiB ({:.1f} of {:.1f} MiB are free)", device,
                                mebibytes(wanted), mebibytes(free), mebibytes(total)),
                    "use smaller batches or fewer workers on it", ExitCode::unavailable);
}

/// Whether this is an error of running work, which a later call may report.
bool comes_late(cudaError_t code) {
  switch (code) {
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

std::string advice_for(cudaError_t code) {
  if (code >= cudaErrorStreamCaptureUnsupported && code <= cudaErrorStreamCaptureWrongThread)
    return "cuda_graphs=false does without captures";
  if (!comes_late(code)) return {};
  const char* blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
  if (blocking && std::string_view(blocking) == "1") return {};
  return "an earlier call may be the cause, which CUDA_LAUNCH_BLOCKING=1 in the environment shows";
}

int current_device() {
  int device = -1;
  cudaGetDevice(&device);
  return device;
}

}  // namespace

void throw_error(cudaError_t code, std::string_view what) {
  throw DeviceError(fmt::format("CUDA: {}: {} ({}, device {})", what, cudaGetErrorString(code), cudaGetErrorName(code),
                                current_device()),
                    advice_for(code));
}

void throw_library_error(const char* library, const std::string& what, const char* text) {
  const cudaError_t behind = cudaGetLastError();
  throw DeviceError(fmt::format("{}: {}: {} (device {}{})", library, what, text, current_device(),
                                behind == cudaSuccess ? "" : fmt::format(", {}", cudaGetErrorName(behind))),
                    advice_for(behind));
}

Turn::Turn() : lock_(one_turn, std::defer_lock) {
  if (capturing) lock_.lock();
}

void Turn::capture(bool open) {
  capturing = open;
}

void* OnDevice::take(Queue& queue, std::size_t bytes) {
  queue.use_device();
  void* data = nullptr;
  const cudaError_t code = cudaMallocAsync(&data, bytes, queue.stream());
  if (code == cudaErrorMemoryAllocation) report_full(queue.device(), bytes);
  check(code, "taking memory");
  queue.clear(data, bytes);
  return data;
}

void OnDevice::give_back(Queue& queue, void* data) noexcept {
  cudaFreeAsync(data, queue.stream());
}

void* Pinned::take(Queue& queue, std::size_t bytes) {
  queue.use_device();
  void* data = nullptr;
  check(cudaMallocHost(&data, bytes), "taking page-locked memory");
  return data;
}

void Pinned::give_back(Queue& queue, void* data) noexcept {
  cudaStreamSynchronize(queue.stream());
  cudaFreeHost(data);
}

Event::Event(Wait wait) {
  check(cudaEventCreateWithFlags(event_.place(), cudaEventDisableTiming | static_cast<unsigned>(wait)),
        "making an event");
}

void Event::wait() const {
  check(cudaEventSynchronize(event_), "waiting for the device");
}

bool Event::passed() const {
  const cudaError_t code = cudaEventQuery(event_);
  if (code != cudaErrorNotReady) check(code, "asking how far the device is");
  return code == cudaSuccess;
}

Queue::Queue(int device, bool urgent) : device_((check(cudaSetDevice(device), "choosing the device"), device)) {
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "asking for priorities");
  check(cudaStreamCreateWithPriority(stream_.place(), cudaStreamNonBlocking, urgent ? highest : lowest),
        "making a stream");
  // Keep freed memory for the next request, instead of returning it to the driver at each wait.
  cudaMemPool_t pool{};
  check(cudaDeviceGetDefaultMemPool(&pool, device), "looking for the memory pool");
  std::uint64_t keep = UINT64_MAX;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "setting up the memory pool");
}

Queue::~Queue() {
  scratch_ = DeviceMemory();
  for (Stage& stage : stages_) stage.memory = PinnedMemory();
  cudaStreamSynchronize(stream_);
}

void Queue::use_device() const {
  check(cudaSetDevice(device_), "choosing the device");
}

void Queue::copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  const Turn turn;
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, kind, stream_), "copying");
}

void Queue::clear(void* data, std::size_t bytes) {
  const Turn turn;
  if (bytes > 0) check(cudaMemsetAsync(data, 0, bytes, stream_), "clearing memory");
}

void Queue::upload(void* to, const void* from, std::size_t bytes) {
  // Enough for 256 images of 224x224, which are copied while the device still computes the previous step.
  constexpr std::size_t kLargestStage = std::size_t{256} << 20;
  if (bytes > kLargestStage) {
    copy(to, from, bytes, cudaMemcpyHostToDevice);
    return synchronize();
  }
  Stage& stage = stages_[next_stage_++ % stages_.size()];
  stage.done.wait();
  if (stage.memory.size() < bytes) stage.memory = PinnedMemory(*this, bytes);
  if (bytes > 0) std::memcpy(stage.memory.as<void>(), from, bytes);
  copy(to, stage.memory.as<void>(), bytes, cudaMemcpyHostToDevice);
  record(stage.done);
}

void Queue::record(const Event& event) {
  const Turn turn;
  check(cudaEventRecord(event.get(), stream_), "marking a place in the queue");
}

void Queue::follow(const Event& event) {
  const Turn turn;
  check(cudaStreamWaitEvent(stream_, event.get()), "ordering two queues");
}

void Queue::synchronize() {
  const cudaError_t code = cudaStreamSynchronize(stream_);
  if (code != cudaSuccess) check(code, fmt::format("running what was launched last ({}), or before it", last_launch_));
}

std::uint64_t Queue::scratch_moves() {
  return times_scratch_moved;
}

void* Queue::scratch_bytes(std::size_t bytes) {
  if (bytes > scratch_.size()) {
    if (scratch_.size() > 0) ++times_scratch_moved;
    scratch_ = DeviceMemory();  // freed first: both might not fit
    scratch_ = DeviceMemory(*this, bytes);
  }
  return scratch_.as<void>();
}

}  // namespace syncbn::ops::cuda
