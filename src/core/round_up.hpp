#pragma once

namespace syncbn {

/// Returns the smallest multiple of `unit` that is at least `n`; n >= 0, unit >= 1.
template <class Integer>
constexpr Integer round_up(Integer n, Integer unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace syncbn
