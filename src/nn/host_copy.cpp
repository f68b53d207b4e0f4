#include "nn/host_copy.hpp"

namespace syncbn {

Tensor HostCopy::operator()(const Tensor& x, ops::Samples samples) {
  Tensor part = x;
  part.shape = x.shape.with_n(samples.count());
  part.data = x.as<std::byte>() + samples.begin * x.sample_stride() * static_cast<std::int64_t>(size_of(x.type));
  if (!backend_.device() || samples.count() == 0) return part;
  if (x.type != DataType::f32) {
    Tensor wide = part;
    wide.type = DataType::f32;
    if (wide_.size() < wide.bytes()) wide_ = backend_.allocate(wide.bytes());
    wide.data = wide_.data();
    backend_.elementwise().reorder(part, wide, {0, samples.count()}, false);
    part = wide;
  }
  copy_.resize(part.bytes() / sizeof(float));
  backend_.download(part.data, copy_.data(), part.bytes());
  part.data = copy_.data();
  return part;
}

}  // namespace syncbn
