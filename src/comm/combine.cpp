#include "comm/combine.hpp"

#include "syncbn/core/error.hpp"

namespace syncbn::detail {

namespace {

template <class T>
T sum_of(T left, T right) {
  return left + right;
}

// Signed overflow is undefined; the sum of counts wraps like the hardware's.
template <>
std::int64_t sum_of(std::int64_t left, std::int64_t right) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(left) + static_cast<std::uint64_t>(right));
}

template <class T>
void combine_as(std::byte* left_bytes, const std::byte* right_bytes, std::int64_t count, Reduce op) {
  T* __restrict left = reinterpret_cast<T*>(left_bytes);
  const T* __restrict right = reinterpret_cast<const T*>(right_bytes);
  switch (op) {
    case Reduce::sum:
      for (std::int64_t i = 0; i < count; ++i) left[i] = sum_of(left[i], right[i]);
      return;
    case Reduce::max:
      for (std::int64_t i = 0; i < count; ++i) left[i] = left[i] > right[i] || left[i] != left[i] ? left[i] : right[i];
      return;
    case Reduce::min:
      for (std::int64_t i = 0; i < count; ++i) left[i] = left[i] < right[i] || left[i] != left[i] ? left[i] : right[i];
      return;
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

void combine(std::byte* left, const std::byte* right, std::int64_t count, Element type, Reduce op) {
  switch (type) {
    case Element::f32:
      return combine_as<float>(left, right, count, op);
    case Element::f64:
      return combine_as<double>(left, right, count, op);
    case Element::i64:
      return combine_as<std::int64_t>(left, right, count, op);
    case Element::byte:
      throw Error("bytes cannot be reduced");
  }
}

void add(float* into_, const float* left_, const float* right_, std::int64_t count) {
  float* __restrict into = into_;
  const float* __restrict left = left_;
  const float* __restrict right = right_;
  for (std::int64_t i = 0; i < count; ++i) into[i] = left[i] + right[i];
}

}  // namespace syncbn::detail
