#include "support/host_tensor.hpp"

#include <Eigen/Core>
#include <stdexcept>

namespace syncbn::test {

namespace {

// Calls body(memory index, channels_first index) for every value.
template <class Body>
void for_each_value(const Tensor& t, Body body) {
  const std::int64_t channels = t.shape.c(), spatial = t.shape.spatial(), block = block_of(t.layout);
  for (std::int64_t n = 0; n < t.shape.n(); ++n) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t s = 0; s < spatial; ++s) {
        const std::int64_t inside =
            t.layout == Layout::channels_last ? s * channels + c : ((c / block) * spatial + s) * block + c % block;
        body(n * t.sample_stride() + inside, (n * channels + c) * spatial + s);
      }
    }
  }
}

template <class T>
void store(T* data, std::int64_t i, double value) {
  data[i] = static_cast<T>(value);
}

void write(const Tensor& t, std::int64_t i, double value) {
  switch (t.type) {
    case DataType::f32:
      return store(t.as<float>(), i, value);
    case DataType::f64:
      return store(t.as<double>(), i, value);
    case DataType::f16:
      return store(t.as<Eigen::half>(), i, value);
    case DataType::bf16:
      return store(t.as<Eigen::bfloat16>(), i, value);
  }
}

double read(const Tensor& t, std::int64_t i) {
  switch (t.type) {
    case DataType::f32:
      return static_cast<double>(t.as<float>()[i]);
    case DataType::f64:
      return t.as<double>()[i];
    case DataType::f16:
      return static_cast<double>(static_cast<float>(t.as<Eigen::half>()[i]));
    case DataType::bf16:
      return static_cast<double>(static_cast<float>(t.as<Eigen::bfloat16>()[i]));
  }
  throw std::logic_error("unknown type");
}

}  // namespace

HostTensor::HostTensor(const Shape& shape, DataType type, Layout layout) : view_{nullptr, shape, type, layout} {
  buffer_ = Buffer(view_.bytes());
  view_.data = buffer_.data();
}

HostTensor::HostTensor(const Shape& shape, DataType type, Layout layout, const Values& values)
    : HostTensor(shape, type, layout) {
  set(values);
}

void HostTensor::set(const Values& values) {
  if (static_cast<std::int64_t>(values.size()) != view_.shape.elements()) throw std::logic_error("wrong size");
  for_each_value(view_, [&](std::int64_t at, std::int64_t i) { write(view_, at, values[i]); });
}

Values HostTensor::get() const {
  Values values(static_cast<std::size_t>(view_.shape.elements()));
  for_each_value(view_, [&](std::int64_t at, std::int64_t i) { values[i] = read(view_, at); });
  return values;
}

bool HostTensor::padding_is_zero() const {
  std::vector<bool> is_value(static_cast<std::size_t>(view_.shape.n() * view_.sample_stride()));
  for_each_value(view_, [&](std::int64_t at, std::int64_t) { is_value[at] = true; });
  for (std::size_t i = 0; i < is_value.size(); ++i) {
    if (!is_value[i] && read(view_, static_cast<std::int64_t>(i)) != 0) return false;
  }
  return true;
}

Values rounded_to(DataType type, Values values) {
  HostTensor tensor(Shape{static_cast<std::int64_t>(values.size()), 1}, type, Layout::channels_first, values);
  return tensor.get();
}

}  // namespace syncbn::test
