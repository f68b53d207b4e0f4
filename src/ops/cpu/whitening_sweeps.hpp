#pragma once

// Products of small matrices with long rows, compiled for several instruction sets: whitening spends its time here.

#include <cstdint>

#include "core/round_up.hpp"

namespace syncbn::ops::cpu {

/// Distance between rows, in values; those behind `count` are 0.
constexpr std::int64_t padded_row(std::int64_t count) {
  return round_up<std::int64_t>(count, 16);
}

/// sum[i] += the sum of row i of a[width][stride], products[i][j] += row i of a times row j of b. Every sum is computed
/// in a fixed order. With b == a the products are symmetric to the bit. `stride` is a padded_row().
void add_row_products(const double* a, const double* b, std::int64_t width, std::int64_t stride, double* sum,
                      double* products);

/// out[width][stride] += matrix[width][width] * in[width][stride], each value summed in the order of the matrix's
/// columns.
void add_matrix_product(const double* matrix, const double* in, std::int64_t width, std::int64_t stride, double* out);

}  // namespace syncbn::ops::cpu
