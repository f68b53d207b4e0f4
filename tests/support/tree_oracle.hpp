#pragma once

#include <bit>
#include <cstddef>
#include <vector>

namespace syncbn::test {

/// Values whose sum depends on the order: large ones of both signs that cancel, and small ones that drown.
template <class T>
T nasty(int worker, std::size_t i) {
  const auto k = static_cast<int>((i * 7 + static_cast<std::size_t>(worker) * 13) % 11);
  const T big = static_cast<T>(sizeof(T) == 8 ? 1e16 : 1e8);
  const T sign = (k % 2) ? T{1} : T{-1};
  const T small = static_cast<T>(0.1) * static_cast<T>(worker + 1) + static_cast<T>(i % 97) / static_cast<T>(3);
  return k < 6 ? sign * big * static_cast<T>(1 + k / 2) + small : small;
}

/// The definition of the fixed tree, written out: node [lo, lo + size) = left half + right half; what lies beyond the
/// last worker is left out.
template <class T>
T tree_node(int lo, int size, int workers, int base, std::size_t i) {
  if (size == 1) return nasty<T>(base + lo, i);
  const T left = tree_node<T>(lo, size / 2, workers, base, i);
  if (lo + size / 2 >= workers) return left;
  return left + tree_node<T>(lo + size / 2, size / 2, workers, base, i);
}

/// What the members [base, base + workers) must get for nasty() values, element by element.
template <class T>
std::vector<T> tree_sum(int base, int workers, std::size_t count) {
  std::vector<T> sums(count);
  const int root = static_cast<int>(std::bit_ceil(static_cast<unsigned>(workers)));
  for (std::size_t i = 0; i < count; ++i) sums[i] = tree_node<T>(0, root, workers, base, i);
  return sums;
}

}  // namespace syncbn::test
