#pragma once

#include <vector>

#include "syncbn/core/tensor.hpp"

namespace syncbn::test {

/// Values of a tensor [N, C, spatial...] in channels_first order, whatever its layout and type.
using Values = std::vector<double>;

/// Rounded to nearest (ties to even) as the type stores them.
Values rounded_to(DataType type, Values values);

/// An owned tensor of any type and layout, read and written as channels_first doubles.
class HostTensor {
 public:
  HostTensor(const Shape& shape, DataType type, Layout layout);
  HostTensor(const Shape& shape, DataType type, Layout layout, const Values& values);
  const Tensor& view() const { return view_; }
  void set(const Values& values);
  Values get() const;
  /// Whether the channel padding of a blocked layout holds zeros.
  bool padding_is_zero() const;

 private:
  Buffer buffer_;
  Tensor view_;
};

}  // namespace syncbn::test
