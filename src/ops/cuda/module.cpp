#include "ops/cuda/module.hpp"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <cudnn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>

#include "syncbn/core/error.hpp"

namespace {

std::string visible_devices() {
  const char* value = std::getenv("CUDA_VISIBLE_DEVICES");
  return value ? fmt::format(" (CUDA_VISIBLE_DEVICES is '{}')", value) : "";
}

/// Returns why CUDA cannot be used at all; empty if it can. Sets the number of devices.
std::string missing(int& devices) {
  const cudaError_t code = cudaGetDeviceCount(&devices);
  switch (code) {
    case cudaSuccess:
      return {};
    case cudaErrorInsufficientDriver: {
      int driver = 0, runtime = 0;
      cudaDriverGetVersion(&driver);
      cudaRuntimeGetVersion(&runtime);
      if (driver == 0) return "there is no NVIDIA driver on this host: install it, or start on a host with a GPU";
      return fmt::format(
          "the NVIDIA driver of this host serves CUDA up to {}.{}, this build needs {}.{}: update the driver",
          driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    case cudaErrorNoDevice:
      return fmt::format("the NVIDIA driver shows no device{}: start on a host with a GPU", visible_devices());
    default:
      return fmt::format("CUDA does not start: {} ({}){}", cudaGetErrorString(code), cudaGetErrorName(code),
                         visible_devices());
  }
}

}  // namespace

namespace syncbn::ops::cuda {

std::string cudnn_version() {
  const std::size_t v = cudnnGetVersion();
  const std::size_t major = v < 90000 ? 1000 : 10000;  // cuDNN 9 widened the major version's factor
  return fmt::format("cuDNN {}.{}.{}", v / major, v % major / 100, v % 100);
}

}  // namespace syncbn::ops::cuda

const char* syncbn_cuda_version() {
  return SYNCBN_VERSION;
}

int syncbn_cuda_probe(char* text, std::size_t size) {
  int devices = 0;
  // Queues beyond this number (one per worker) would wait for each other.
  ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  std::string found = missing(devices);
  cudaDeviceProp first{};
  if (found.empty()) {
    const cudaError_t code = cudaGetDeviceProperties(&first, 0);
    if (code != cudaSuccess) found = fmt::format("the first device does not answer: {}", cudaGetErrorString(code));
  }
  const bool can_start = found.empty();
  bool usable = can_start;
  if (can_start) {
    found = fmt::format("{}, compute capability {}.{}, {:.0f} GiB", first.name, first.major, first.minor,
                        static_cast<double>(first.totalGlobalMem) / (1 << 30));
    if (devices > 1) found = fmt::format("{} devices, the first: {}", devices, found);
    usable = first.major >= syncbn::ops::cuda::kOldestMajor;
    if (!usable)
      found += fmt::format(": too old, compute capability {}.0 is needed{}", syncbn::ops::cuda::kOldestMajor,
                           devices > 1 ? "; choose others by CUDA_VISIBLE_DEVICES" : "");
    if (usable) {
      const std::size_t cublas = cublasLtGetVersion();
      found +=
          fmt::format("; {}, cuBLASLt {}.{}", syncbn::ops::cuda::cudnn_version(), cublas / 10000, cublas / 100 % 100);
    }
  }
  const std::size_t length = std::min(found.size(), size - 1);
  std::memcpy(text, found.data(), length);
  text[length] = '\0';
  return usable ? 0 : 1;
}
