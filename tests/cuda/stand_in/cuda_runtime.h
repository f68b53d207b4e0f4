#pragma once

// Stands in for CUDA's header of this name, so that the kernels' own source can be built for the processor and tested
// where there is no device: every thread of a block runs by itself, one after the other or, where they wait for each
// other, in turns. It shows wrong indices, wrong sums and missing waits; it cannot show what the real compiler or
// device does, nor how fast that is. Only what the kernels use is here.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)

using std::fmaf, std::isnan, std::isfinite;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

using cudaStream_t = struct StandInStream*;

namespace stand_in {

/// Does the work some time, after all that has been queued in this stream before.
void queue(cudaStream_t stream, std::function<void()> work);
/// The same, again and again until it says that it is done.
void queue_until(cudaStream_t stream, std::function<bool()> work);
/// Calls `thread` for every thread of every block. Threads start from the first, at every other call from the last:
/// results must not depend on it.
void run(dim3 grid, dim3 block, const std::function<void()>& thread);
void wait_for_block();
void wait_for_warp();
/// 32 places of 8 bytes, for the lanes of the calling thread's warp; others than at the call before, so that what was
/// written there can still be read.
std::byte (*next_lanes())[8];
unsigned lane();

template <class T>
T from_lane(T mine, unsigned other) {
  static_assert(sizeof(T) <= 8);
  const auto lanes = next_lanes();
  std::memcpy(lanes[lane()], &mine, sizeof mine);
  wait_for_warp();
  T theirs;
  std::memcpy(&theirs, lanes[other < 32 ? other : lane()], sizeof theirs);
  return theirs;
}

}  // namespace stand_in

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

inline void __syncthreads() {
  stand_in::wait_for_block();
}
inline void __threadfence() {}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned distance) {
  return stand_in::from_lane(value, stand_in::lane() + distance);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
  return stand_in::from_lane(value, stand_in::lane() ^ mask);
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T atomicAdd(T* place, T value) {
  const T before = *place;
  *place += value;
  return before;
}

// ---- the run-time library, on the processor's memory ----

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorECCUncorrectable = 214,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchTimeout = 702,
  cudaErrorAssert = 710,
  cudaErrorHardwareStackError = 714,
  cudaErrorIllegalInstruction = 715,
  cudaErrorMisalignedAddress = 716,
  cudaErrorInvalidAddressSpace = 717,
  cudaErrorInvalidPc = 718,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureMerge = 902,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorCapturedEvent = 907,
  cudaErrorStreamCaptureWrongThread = 908,
  cudaErrorUnknown = 999
};

namespace stand_in {
/// What the call of this name returns: success, unless $STAND_IN_FAILURE ("cudaEventRecord 3": the third of these calls
/// from now on; "kernel 3": the third kernel; "stall 3": the third exchange of NCCL never ends) makes it fail, or a
/// kernel has failed, after which every call does.
cudaError_t outcome(const char* call);
}  // namespace stand_in

struct cudaDeviceProp {
  char name[256];
  int major, minor;
  std::size_t totalGlobalMem;
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };
constexpr unsigned long long cudaGraphInstantiateFlagUseNodePriority = 8;
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventBlockingSync = 1;
constexpr unsigned cudaEventDisableTiming = 2;
constexpr unsigned cudaHostRegisterDefault = 0;
using cudaEvent_t = struct StandInEvent*;
using cudaMemPool_t = struct StandInPool*;
using cudaGraph_t = struct StandInGraph*;
using cudaGraphExec_t = struct StandInGraphExec*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

const char* cudaGetErrorString(cudaError_t code);
const char* cudaGetErrorName(cudaError_t code);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetPCIBusId(char* address, int size, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event);
cudaError_t cudaHostRegister(void* data, std::size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void* data);
cudaError_t cudaMallocHost(void** data, std::size_t bytes);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t stream);

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const cudaError_t code = stand_in::outcome("cudaLaunchKernelEx");
  if (code != cudaSuccess) return code;
  std::tuple<std::decay_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
  stand_in::queue(config->stream, [grid = config->gridDim, block = config->blockDim, kernel, values] {
    stand_in::run(grid, block, [&] { std::apply(kernel, values); });
  });
  return cudaSuccess;
}
