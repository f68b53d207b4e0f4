#include "ops/cpu/whitening_sweeps.hpp"

#include "ops/cpu/vector_targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/whitening_sweeps.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace syncbn::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr hn::CappedTag<double, 8> kF64;
using F64 = hn::Vec<decltype(kF64)>;

/// Calls body.template operator()<rows>(first) for tiles of kMost rows, then for single rows.
template <int kMost, class Body>
HWY_INLINE void for_tiles(std::int64_t rows, Body body) {
  std::int64_t i = 0;
  for (; i + kMost <= rows; i += kMost) body.template operator()<kMost>(i);
  for (; i < rows; ++i) body.template operator()<1>(i);
}

/// Computes a tile of kRows * kColumns sums, which stay in registers.
template <int kRows, int kColumns>
HWY_INLINE void product_tile(const double* a, const double* b, std::int64_t stride, double* out, std::int64_t width) {
  F64 sums[kRows][kColumns];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(kF64);
  }
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kF64));
  for (std::int64_t k = 0; k < stride; k += lanes) {
    F64 right[kColumns];
    for (int j = 0; j < kColumns; ++j) right[j] = hn::LoadU(kF64, b + j * stride + k);
    for (int i = 0; i < kRows; ++i) {
      const auto left = hn::LoadU(kF64, a + i * stride + k);
      for (int j = 0; j < kColumns; ++j) sums[i][j] = hn::MulAdd(left, right[j], sums[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) out[i * width + j] += hn::GetLane(hn::SumOfLanes(kF64, sums[i][j]));
  }
}

void row_products(const double* a, const double* b, std::int64_t width, std::int64_t stride, double* sum,
                  double* products) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kF64));
  for (std::int64_t i = 0; i < width; ++i) {
    auto total = hn::Zero(kF64);
    for (std::int64_t k = 0; k < stride; k += lanes) total = hn::Add(total, hn::LoadU(kF64, a + i * stride + k));
    sum[i] += hn::GetLane(hn::SumOfLanes(kF64, total));
  }
  for_tiles<4>(width, [&]<int kRows>(std::int64_t i) HWY_ATTR {
    // Of symmetric products only those at and below the diagonal.
    for_tiles<2>(a == b ? i + kRows : width, [&]<int kColumns>(std::int64_t j) HWY_ATTR {
      product_tile<kRows, kColumns>(a + i * stride, b + j * stride, stride, products + i * width + j, width);
    });
  });
  for (std::int64_t i = 0; i < width && a == b; ++i) {
    for (std::int64_t j = 0; j < i; ++j) products[j * width + i] = products[i * width + j];
  }
}

/// Handles two vectors of each row at a time, so that each value of the matrix is broadcast once for both.
template <int kRows>
HWY_INLINE void matrix_tile(const double* matrix, const double* in, std::int64_t width, std::int64_t stride,
                            double* out) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(kF64));
  for (std::int64_t k = 0; k < stride; k += 2 * lanes) {
    F64 left[kRows], right[kRows];
    for (int i = 0; i < kRows; ++i) {
      left[i] = hn::LoadU(kF64, out + i * stride + k);
      right[i] = hn::LoadU(kF64, out + i * stride + k + lanes);
    }
    for (std::int64_t j = 0; j < width; ++j) {
      const double* from = in + j * stride + k;
      const auto a = hn::LoadU(kF64, from), b = hn::LoadU(kF64, from + lanes);
      for (int i = 0; i < kRows; ++i) {
        const auto factor = hn::Set(kF64, matrix[i * width + j]);
        left[i] = hn::MulAdd(factor, a, left[i]);
        right[i] = hn::MulAdd(factor, b, right[i]);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      hn::StoreU(left[i], kF64, out + i * stride + k);
      hn::StoreU(right[i], kF64, out + i * stride + k + lanes);
    }
  }
}

void matrix_product(const double* matrix, const double* in, std::int64_t width, std::int64_t stride, double* out) {
  for_tiles<4>(width, [&]<int kRows>(std::int64_t i)
                          HWY_ATTR { matrix_tile<kRows>(matrix + i * width, in, width, stride, out + i * stride); });
}

}  // namespace syncbn::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::ops::cpu {

HWY_EXPORT(row_products);
HWY_EXPORT(matrix_product);

void add_row_products(const double* a, const double* b, std::int64_t width, std::int64_t stride, double* sum,
                      double* products) {
  HWY_DYNAMIC_DISPATCH(row_products)(a, b, width, stride, sum, products);
}

void add_matrix_product(const double* matrix, const double* in, std::int64_t width, std::int64_t stride, double* out) {
  HWY_DYNAMIC_DISPATCH(matrix_product)(matrix, in, width, stride, out);
}

}  // namespace syncbn::ops::cpu
#endif
