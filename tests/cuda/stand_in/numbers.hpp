#pragma once

// Numbers as the libraries that cudnn.h and cublasLt.h stand in for read and write them.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace stand_in {

enum class Number { f32, tf32, f16, bf16 };

/// To 10 bits of mantissa, to the nearest, of two the even one.
inline float rounded_to_tf32(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  if ((bits & 0x7F800000U) == 0x7F800000U) return x;  // infinite, or no number
  bits = (bits + 0xFFFU + ((bits >> 13) & 1U)) & ~0x1FFFU;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline float read(Number type, const void* values, std::size_t i) {
  if (type == Number::f16) return __half2float(static_cast<const __half*>(values)[i]);
  if (type == Number::bf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(values)[i]);
  const float x = static_cast<const float*>(values)[i];
  return type == Number::tf32 ? rounded_to_tf32(x) : x;
}

inline void write(Number type, void* values, std::size_t i, float x) {
  if (type == Number::f16) {
    static_cast<__half*>(values)[i] = __float2half_rn(x);
  } else if (type == Number::bf16) {
    static_cast<__nv_bfloat16*>(values)[i] = __float2bfloat16_rn(x);
  } else {
    static_cast<float*>(values)[i] = x;
  }
}

inline std::vector<float> read_all(Number type, const void* values, std::size_t count) {
  std::vector<float> all(count);
  for (std::size_t i = 0; i < count; ++i) all[i] = read(type, values, i);
  return all;
}

/// result = sums + beta * result, rounded once; a beta of 0 forgets even a NaN.
inline void write_all(Number type, void* result, const std::vector<float>& sums, float beta) {
  for (std::size_t i = 0; i < sums.size(); ++i)
    write(type, result, i, sums[i] + (beta == 0 ? 0 : beta * read(type, result, i)));
}

}  // namespace stand_in
