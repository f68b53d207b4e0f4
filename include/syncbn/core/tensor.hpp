#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

namespace syncbn {

enum class DataType { f32, f64, f16, bf16 };

/// Bytes of one element.
std::size_t size_of(DataType type);
const char* name_of(DataType type);

/// The order of [N, C, spatial...] in memory.
enum class Layout {
  channels_first,  ///< N, C, spatial (NCHW)
  channels_last,   ///< N, spatial, C (NHWC)
  blocked8,        ///< N, ceil(C/8), spatial, 8 (nChw8c); padding channels hold zeros
  blocked16,       ///< N, ceil(C/16), spatial, 16 (nChw16c); padding channels hold zeros
};

const char* name_of(Layout layout);
/// Channels per block: 8, 16, or 1 for the plain layouts.
int block_of(Layout layout);

/// Extents of a tensor [N, C, spatial...], up to 5 dimensions ([N,C], [N,C,L], [N,C,H,W], [N,C,D,H,W]).
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  std::int64_t n() const { return dims_[0]; }
  std::int64_t c() const { return rank_ > 1 ? dims_[1] : 1; }
  std::int64_t h() const { return rank_ > 2 ? dims_[2] : 1; }
  std::int64_t w() const { return rank_ > 3 ? dims_[3] : 1; }
  /// Product of all extents after C (1 for [N, C]).
  std::int64_t spatial() const;
  std::int64_t elements() const;
  /// The same shape with another N.
  Shape with_n(std::int64_t n) const;
  bool operator==(const Shape&) const = default;
  /// "[8, 16, 32, 32]"
  std::string str() const;

 private:
  std::array<std::int64_t, 5> dims_{};
  int rank_ = 0;
};

/// A view of a tensor owned elsewhere. Copying copies the view. In blocked layouts the channel padding is part of the
/// tensor.
struct Tensor {
  void* data = nullptr;
  Shape shape;
  DataType type = DataType::f32;
  Layout layout = Layout::channels_first;

  explicit operator bool() const { return data != nullptr; }
  /// Channels including the padding of blocked layouts.
  std::int64_t padded_channels() const;
  /// Elements from one sample to the next.
  std::int64_t sample_stride() const { return padded_channels() * shape.spatial(); }
  std::size_t bytes() const;
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  /// Pointer to sample i of an f32 tensor.
  float* sample(std::int64_t i) const { return as<float>() + i * sample_stride(); }
};

/// Owner of zeroed memory aligned to 64 bytes, so that vector loops never depend on where it came from.
class Buffer {
 public:
  Buffer() = default;
  /// `alignment`: a power of two. The allocation is padded to a multiple of it; page alignment therefore makes it safe
  /// to page-lock.
  explicit Buffer(std::size_t bytes, std::size_t alignment = 64);
  std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept;
  };
  std::unique_ptr<std::byte[], Free> data_;
  std::size_t size_ = 0;
};

}  // namespace syncbn
