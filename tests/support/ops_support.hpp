#pragma once

// Tensors and plain fp64 references for the tests of the kernels.

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "ops/backend.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::testing {

/// Owner of a tensor, filled and read by (sample, channel, position) whatever its type and layout.
class Array {
 public:
  Array(Shape shape, Layout layout, DataType type = DataType::f32) {
    tensor_.shape = shape, tensor_.layout = layout, tensor_.type = type;
    buffer_ = Buffer(tensor_.bytes() + 64);
    // Not aligned to more than an element, as a sample in the middle of a batch may be.
    tensor_.data = buffer_.data() + size_of(type);
  }

  const Tensor& tensor() const { return tensor_; }
  operator const Tensor&() const { return tensor_; }

  std::int64_t n() const { return tensor_.shape.n(); }
  std::int64_t c() const { return tensor_.shape.c(); }
  std::int64_t spatial() const { return tensor_.shape.spatial(); }

  std::int64_t offset(std::int64_t n, std::int64_t c, std::int64_t i) const {
    const std::int64_t s = spatial(), b = block_of(tensor_.layout);
    if (tensor_.layout == Layout::channels_first) return (n * this->c() + c) * s + i;
    if (tensor_.layout == Layout::channels_last) return (n * s + i) * this->c() + c;
    return ((n * (tensor_.padded_channels() / b) + c / b) * s + i) * b + c % b;
  }
  double get(std::int64_t n, std::int64_t c, std::int64_t i) const { return load(offset(n, c, i)); }
  void set(std::int64_t n, std::int64_t c, std::int64_t i, double value) { store(offset(n, c, i), value); }
  double load(std::int64_t at) const {
    switch (tensor_.type) {
      case DataType::f32:
        return tensor_.as<float>()[at];
      case DataType::f64:
        return tensor_.as<double>()[at];
      case DataType::f16:
        return static_cast<float>(tensor_.as<Eigen::half>()[at]);
      case DataType::bf16:
        return static_cast<float>(tensor_.as<Eigen::bfloat16>()[at]);
    }
    return 0;
  }
  void store(std::int64_t at, double value) {
    switch (tensor_.type) {
      case DataType::f32:
        tensor_.as<float>()[at] = static_cast<float>(value);
        break;
      case DataType::f64:
        tensor_.as<double>()[at] = value;
        break;
      case DataType::f16:
        tensor_.as<Eigen::half>()[at] = static_cast<Eigen::half>(static_cast<float>(value));
        break;
      case DataType::bf16:
        tensor_.as<Eigen::bfloat16>()[at] = static_cast<Eigen::bfloat16>(static_cast<float>(value));
        break;
    }
  }

  void for_each(const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& visit) const {
    for (std::int64_t n = 0; n < this->n(); ++n)
      for (std::int64_t c = 0; c < this->c(); ++c)
        for (std::int64_t i = 0; i < spatial(); ++i) visit(n, c, i);
  }
  /// Normal values: mean[c] + std * normal, the same for every layout.
  Array& fill(std::uint64_t seed, double mean = 0, double std = 1) {
    Random random(seed, Purpose::test);
    for_each([&](auto n, auto c, auto i) { set(n, c, i, mean + std * random.normal()); });
    return *this;
  }
  bool same_bytes(const Array& other) const {
    return std::memcmp(tensor_.data, other.tensor_.data, tensor_.bytes()) == 0;
  }
  /// NaN in the padding of blocked layouts, from sample `first` on: what a kernel finds that must clear it.
  Array& poison_padding(std::int64_t first = 0) {
    for (const std::int64_t at : padding()) {
      if (at >= first * tensor_.sample_stride()) store(at, std::numeric_limits<double>::quiet_NaN());
    }
    return *this;
  }
  /// Whether the padding of blocked layouts holds zeros and nothing was written behind the tensor.
  bool padding_is_clean() const {
    for (const std::int64_t at : padding()) {
      if (load(at) != 0) return false;
    }
    const auto* end = static_cast<const std::byte*>(tensor_.data) + tensor_.bytes();
    for (std::size_t i = 0; i + size_of(tensor_.type) < 64; ++i) {
      if (end[i] != std::byte{0}) return false;
    }
    return true;
  }

 private:
  /// Offsets of what belongs to no channel.
  std::vector<std::int64_t> padding() const {
    std::vector<bool> used(static_cast<std::size_t>(tensor_.sample_stride() * n()), false);
    for_each([&](auto n, auto c, auto i) { used[offset(n, c, i)] = true; });
    std::vector<std::int64_t> unused;
    for (std::size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) unused.push_back(static_cast<std::int64_t>(i));
    }
    return unused;
  }

  Buffer buffer_;
  Tensor tensor_;
};

inline const std::vector<Layout>& all_layouts() {
  static const std::vector<Layout> layouts = {Layout::channels_first, Layout::channels_last, Layout::blocked8,
                                              Layout::blocked16};
  return layouts;
}

/// |got - want| <= relative * |want| + absolute, NaN equal to NaN.
inline void expect_close(double got, double want, double relative, double absolute, const std::string& what) {
  if (got == want || (std::isnan(want) && std::isnan(got))) return;
  ASSERT_LE(std::abs(got - want), relative * std::abs(want) + absolute) << what << ": got " << got << ", want " << want;
}

}  // namespace syncbn::testing
