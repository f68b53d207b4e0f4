#include "syncbn/core/tensor.hpp"

#include <cstdlib>
#include <cstring>
#include <new>

#include "core/round_up.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

std::size_t size_of(DataType type) {
  switch (type) {
    case DataType::f32:
      return 4;
    case DataType::f64:
      return 8;
    case DataType::f16:
    case DataType::bf16:
      return 2;
  }
  return 0;
}

const char* name_of(DataType type) {
  switch (type) {
    case DataType::f32:
      return "f32";
    case DataType::f64:
      return "f64";
    case DataType::f16:
      return "f16";
    case DataType::bf16:
      return "bf16";
  }
  return "?";
}

const char* name_of(Layout layout) {
  switch (layout) {
    case Layout::channels_first:
      return "channels_first";
    case Layout::channels_last:
      return "channels_last";
    case Layout::blocked8:
      return "blocked8";
    case Layout::blocked16:
      return "blocked16";
  }
  return "?";
}

int block_of(Layout layout) {
  return layout == Layout::blocked8 ? 8 : layout == Layout::blocked16 ? 16 : 1;
}

Shape::Shape(std::initializer_list<std::int64_t> dims) {
  if (dims.size() > dims_.size()) throw Error("a tensor has at most 5 dimensions", ExitCode::usage);
  for (const auto d : dims) dims_[rank_++] = d;
}

std::int64_t Shape::spatial() const {
  std::int64_t product = 1;
  for (int i = 2; i < rank_; ++i) product *= (*this)[i];
  return product;
}

std::int64_t Shape::elements() const {
  return rank_ == 0 ? 0 : n() * c() * spatial();
}

Shape Shape::with_n(std::int64_t n) const {
  Shape shape = *this;
  shape.dims_[0] = n;
  return shape;
}

std::string Shape::str() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += (i ? ", " : "") + std::to_string((*this)[i]);
  return text + "]";
}

std::int64_t Tensor::padded_channels() const {
  return round_up<std::int64_t>(shape.c(), block_of(layout));
}

std::size_t Tensor::bytes() const {
  return static_cast<std::size_t>(shape.n() * sample_stride()) * size_of(type);
}

Buffer::Buffer(std::size_t bytes, std::size_t alignment) : size_(bytes) {
  if (bytes == 0) return;
  const std::size_t rounded = round_up(bytes, alignment);
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0, rounded);
  data_.reset(memory);
}

void Buffer::Free::operator()(std::byte* p) const noexcept {
  std::free(p);
}

}  // namespace syncbn
