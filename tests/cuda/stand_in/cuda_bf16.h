#pragma once

// Stands in for CUDA's header of this name; see cuda_runtime.h.

#include <Eigen/Core>

using __nv_bfloat16 = Eigen::bfloat16;

inline float __bfloat162float(__nv_bfloat16 x) {
  return static_cast<float>(x);
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  return __nv_bfloat16(x);
}
