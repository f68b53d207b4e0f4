#pragma once

// Access to a tensor's values in kernels: 16 bytes at a time, converted to f32.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <stdexcept>
#include <type_traits>

#include "syncbn/core/tensor.hpp"

namespace syncbn::ops::cuda {

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__half x) {
  return __half2float(x);
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <class T>
__device__ inline T from_float(float x) {
  if constexpr (std::is_same_v<T, __half>) return __float2half_rn(x);
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16_rn(x);
  if constexpr (std::is_same_v<T, float>) return x;
}

/// kWidth neighbouring values, read and written at once; the address must be a multiple of the size.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];

  __device__ static Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
  __device__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
  __device__ float get(int i) const { return to_float(value[i]); }
  __device__ void set(int i, float x) { value[i] = from_float<T>(x); }
};

/// Number of values in 16 bytes.
template <class T>
constexpr int kFullWidth = 16 / static_cast<int>(sizeof(T));

/// Calls visit() with a value of the type's C++ type.
template <class Visit>
void visit_type(DataType type, Visit visit) {
  switch (type) {
    case DataType::f32:
      return visit(float{});
    case DataType::f16:
      return visit(__half{});
    case DataType::bf16:
      return visit(__nv_bfloat16{});
    case DataType::f64:
      break;
  }
  throw std::logic_error("f64 tensors stay on the CPU");
}

}  // namespace syncbn::ops::cuda
