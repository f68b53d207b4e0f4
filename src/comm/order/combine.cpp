#include "comm/order/combine.hpp"

#include "syncbn/core/error.hpp"

namespace syncbn::detail {

namespace {

template <class T>
T sum_of(T left, T right) {
  return left + right;
}

// Signed overflow is undefined; adding counts as unsigned numbers wraps as in hardware.
template <>
std::int64_t sum_of(std::int64_t left, std::int64_t right) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(left) + static_cast<std::uint64_t>(right));
}

template <class T, class Op>
void each(T* into, const T* left, const T* right, std::int64_t count, Op op) {
  // `into` may be the same array as `left` or `right`.
#if defined(__clang__)
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
  for (std::int64_t i = 0; i < count; ++i) into[i] = op(left[i], right[i]);
}

template <class T>
void combine_as(std::byte* into_, const std::byte* left_, const std::byte* right_, std::int64_t count, Reduce op) {
  T* into = reinterpret_cast<T*>(into_);
  const T* left = reinterpret_cast<const T*>(left_);
  const T* right = reinterpret_cast<const T*>(right_);
  switch (op) {
    case Reduce::sum:
      return each(into, left, right, count, [](T a, T b) { return sum_of(a, b); });
    case Reduce::max:
      return each(into, left, right, count, [](T a, T b) { return a > b || a != a ? a : b; });
    case Reduce::min:
      return each(into, left, right, count, [](T a, T b) { return a < b || a != a ? a : b; });
  }
}

}  // namespace

std::size_t size_of(Element type) {
  switch (type) {
    case Element::byte:
      return 1;
    case Element::f32:
      return 4;
    case Element::f64:
    case Element::i64:
      return 8;
  }
  return 0;
}

const char* name_of(Element type) {
  switch (type) {
    case Element::byte:
      return "bytes";
    case Element::f32:
      return "f32";
    case Element::f64:
      return "f64";
    case Element::i64:
      return "i64";
  }
  return "unknown type";
}

const char* name_of(Reduce op) {
  switch (op) {
    case Reduce::sum:
      return "sum";
    case Reduce::max:
      return "max";
    case Reduce::min:
      return "min";
  }
  return "unknown reduction";
}

void combine(std::byte* into, const std::byte* left, const std::byte* right, std::int64_t count, Element type,
             Reduce op) {
  switch (type) {
    case Element::f32:
      return combine_as<float>(into, left, right, count, op);
    case Element::f64:
      return combine_as<double>(into, left, right, count, op);
    case Element::i64:
      return combine_as<std::int64_t>(into, left, right, count, op);
    case Element::byte:
      throw Error("bytes cannot be reduced");
  }
}

}  // namespace syncbn::detail
