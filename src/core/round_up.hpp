#pragma once

namespace syncbn {

/// The least multiple of `unit` that is not below `n`; n >= 0, unit >= 1.
template <class Integer>
constexpr Integer round_up(Integer n, Integer unit) {
  return (n + unit - 1) / unit * unit;
}

/// Takes from a product of fractions what it may be too large by: 1.1 x 100 is a little more than 110.
inline constexpr double kRounding = 1 - 1e-12;

}  // namespace syncbn
