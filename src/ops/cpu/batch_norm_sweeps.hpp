#pragma once

// The sweeps of batch normalization over samples in the form of Panels, in f32 or f64, compiled for several instruction
// sets. batch_norm.cpp converts every tensor to this form. Pointers are to the first sample of the extent.

#include <cstdint>
#include <string>

#include "ops/backend.hpp"
#include "ops/cpu/panels.hpp"

namespace syncbn::ops::cpu {

template <class T>
struct SumsSweep {
  Extent extent;
  const T* x;
  const double* pivot;
  double *sum, *sum_sq;
};

template <class T>
struct ApplySweep {
  Extent extent;
  const T *x, *add;  ///< add may be null
  T* y;
  const T *center, *scale, *shift;
  FusedRelu relu;
  std::uint8_t* mask;
  std::int64_t mask_bytes;  ///< of one sample
};

template <class T>
struct BackwardSumsSweep {
  Extent extent;
  const T *x, *dy;
  const double* center;
  const T *scale, *shift;
  FusedRelu relu;
  const std::uint8_t* mask;
  std::int64_t mask_bytes;  ///< of one sample
  double *sum_dy, *sum_dy_xc;
};

template <class T>
struct BackwardSweep {
  Extent extent;
  const T *x, *dy;
  T *dx, *d_add;  ///< either may be null
  const T *center, *scale, *shift, *p, *q, *r;
  FusedRelu relu;
  const std::uint8_t* mask;
  std::int64_t mask_bytes;  ///< of one sample
  bool accumulate_dx, accumulate_add;
};

void run(const SumsSweep<float>& s);
void run(const SumsSweep<double>& s);
void run(const ApplySweep<float>& s);
void run(const ApplySweep<double>& s);
void run(const BackwardSumsSweep<float>& s);
void run(const BackwardSumsSweep<double>& s);
void run(const BackwardSweep<float>& s);
void run(const BackwardSweep<double>& s);

/// Bytes of the ReLU's mask of one sample of T. Only the sweeps know which bit belongs to which value.
template <class T>
std::int64_t mask_bytes(const Panels& panels);

/// The instruction set in use, such as "AVX2".
std::string vector_target();

}  // namespace syncbn::ops::cpu
