#pragma once

// The per-channel computations of batch normalization, in f64. Formulas: Ioffe & Szegedy 2015, algorithms 1 and 2.

#include "ops/cuda/batch_norm.cuh"

namespace syncbn::ops::cuda {

/// Relative rounding error of the two sums whose difference is the variance; a smaller variance is that of a constant
/// channel, and exactly zero. As on the CPU.
constexpr double kVarianceRounding = 8 * 2.220446049250313e-16;

/// Writes this worker's share of the message, n * mean and sum((x - mean)^2) + n * mean^2, from sums about a pivot.
__device__ inline void write_message(const ChannelArrays& a, unsigned channels, unsigned c, double n, double pivot,
                                     double sum, double sum_sq) {
  const double shift = sum / n;
  const double mean = pivot + shift;
  const double m2 = sum_sq - sum * shift;
  if (c == 0) a.message[0] = n;
  a.message[1 + c] = n * mean;
  a.message[1 + channels + c] = (m2 < 0 ? 0 : m2) + n * mean * mean;  // NaN stays NaN
}

/// y = (x - mean) * gamma * invstd + beta; the shift compensates for the rounding of the center.
__device__ inline void derive_map(const ChannelArrays& a, unsigned c, double mean, double var, double eps,
                                  const Affine& affine) {
  const double invstd = 1 / sqrt(var + eps > 0 ? var + eps : -1.0);
  const double gain = affine.gamma ? affine.gamma[c] * invstd : invstd;
  const double shift = affine.beta ? affine.beta[c] : 0.0;
  const float center = static_cast<float>(mean);
  a.mean[c] = mean;
  a.var[c] = var;
  a.invstd[c] = invstd;
  a.gain[c] = gain;
  a.center[c] = center;
  a.scale[c] = static_cast<float>(gain);
  a.shift[c] = static_cast<float>(shift + (center - mean) * gain);
}

/// Derives the group's statistics and map from its sums and its count `m`.
__device__ inline void finish_channel(const ChannelArrays& a, unsigned channels, unsigned c, double m,
                                      const double* group, double eps, const Affine& affine) {
  if (c == 0) *a.count = m;
  if (m == 0) {
    a.mean[c] = a.var[c] = a.invstd[c] = a.gain[c] = 0;
    a.center[c] = a.scale[c] = a.shift[c] = 0;
    return;
  }
  const double mean = group[1 + c] / m;
  const double square = group[1 + channels + c] / m;
  const double var = square - mean * mean;
  derive_map(a, c, mean, var < square * kVarianceRounding ? 0 : var, eps, affine);
}

/// dx = gamma * invstd * (g - A / M - (x - mean) * invstd^2 * B / M)
__device__ inline void finish_gradient(const ChannelArrays& a, unsigned c, double sum_g, double sum_g_xc) {
  const double m = *a.count, invstd = a.invstd[c], p = a.gain[c];
  const double q = m == 0 ? 0 : -p * invstd * invstd * sum_g_xc / m;
  const double r = m == 0 ? 0 : -p * sum_g / m;
  a.p[c] = static_cast<float>(p);
  a.q[c] = static_cast<float>(q);
  a.r[c] = static_cast<float>(r + (a.center[c] - a.mean[c]) * q);
}

}  // namespace syncbn::ops::cuda
