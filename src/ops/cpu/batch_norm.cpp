#include <Eigen/Core>

#include "ops/cpu/batch_norm_sweeps.hpp"
#include "ops/cpu/factories.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cpu {
namespace {

/// Converts one sample from one layout and type to another.
template <class From, class To>
void convert(const From* from, const Panels& from_panels, To* to, const Panels& to_panels) {
  for (std::int64_t c = 0; c < to_panels.channels; ++c) {
    const From* value = from + from_panels.offset(c, 0);
    To* target = to + to_panels.offset(c, 0);
    for (std::int64_t i = 0; i < to_panels.positions; ++i, value += from_panels.width, target += to_panels.width) {
      *target = static_cast<To>(*value);
    }
  }
}

/// The mask bits of a sample, or null.
template <class Byte>
Byte* mask_of(Byte* mask, std::int64_t sample, std::int64_t bytes) {
  return mask ? mask + sample * bytes : nullptr;
}

/// The samples of a tensor in the type and layout of a sweep: in place if it has them, otherwise through a buffer.
template <class T>
class Staged {
 public:
  Staged(const Tensor& tensor, const Panels& panels) : tensor_(tensor), from_(tensor), to_(panels) {
    constexpr DataType type = sizeof(T) == sizeof(double) ? DataType::f64 : DataType::f32;
    in_place_ = !tensor || (tensor.type == type && from_.count == to_.count && from_.width == to_.width);
    if (!in_place_) buffer_ = Buffer(static_cast<std::size_t>(to_.size()) * sizeof(T));
  }

  bool in_place() const { return in_place_; }
  T* read(std::int64_t sample) {
    if (!tensor_) return nullptr;
    if (!in_place_) {
      visit_sample(sample, [&](const auto* values) { convert(values, from_, buffer_.as<T>(), to_); });
    }
    return write_to(sample);
  }
  T* write_to(std::int64_t sample) const {
    if (!tensor_) return nullptr;
    return in_place_ ? tensor_.as<T>() + sample * to_.size() : buffer_.as<T>();
  }
  void written(std::int64_t sample) const {
    if (in_place_) return;
    visit_sample(sample, [&](auto* values) { convert(buffer_.as<T>(), to_, values, from_); });
  }

 private:
  template <class Visit>
  void visit_sample(std::int64_t sample, Visit visit) const {
    const std::int64_t offset = sample * from_.size();
    switch (tensor_.type) {
      case DataType::f32:
        return visit(tensor_.as<float>() + offset);
      case DataType::f64:
        return visit(tensor_.as<double>() + offset);
      case DataType::f16:
        return visit(tensor_.as<Eigen::half>() + offset);
      case DataType::bf16:
        return visit(tensor_.as<Eigen::bfloat16>() + offset);
    }
  }

  Tensor tensor_;
  Panels from_, to_;
  bool in_place_;
  Buffer buffer_;
};

/// Calls sweep(first sample, number of samples): all at once if every tensor is in place, otherwise one by one.
template <class Sweep>
void for_samples(Samples samples, bool in_place, Sweep sweep) {
  if (in_place) {
    if (samples.count() > 0) sweep(samples.begin, samples.count());
    return;
  }
  for (std::int64_t i = samples.begin; i < samples.end; ++i) sweep(i, std::int64_t{1});
}

/// Calls body with a value of the type that is used to compute tensors like x.
template <class Body>
auto with_type_of(const Tensor& x, Body body) {
  return x.type == DataType::f64 ? body(double{}) : body(float{});
}

template <class T>
const T* pick(const std::vector<double>& exact, const std::vector<float>& rounded) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return exact.data();
  } else {
    return rounded.data();
  }
}

class CpuBatchNorm final : public BatchNormKernels {
 public:
  void pivot(const Tensor& x, std::int64_t sample, double* pivot) const override {
    const auto channels = static_cast<std::size_t>(x.shape.c());
    const std::vector<double> zero(channels);
    std::vector<double> sum(channels), sum_sq(channels);
    sums(x, {sample, sample + 1}, zero.data(), sum.data(), sum_sq.data());
    for (std::size_t c = 0; c < channels; ++c) {
      const double mean = sum[c] / static_cast<double>(x.shape.spatial());
      pivot[c] = x.type == DataType::f64 ? mean : static_cast<float>(mean);
    }
  }

  void sums(const Tensor& x, Samples samples, const double* pivot, double* sum, double* sum_sq) const override {
    with_type_of(x, [&](auto type) {
      using T = decltype(type);
      const Panels panels(x);
      Staged<T> staged(x, panels);
      for_samples(samples, staged.in_place(), [&](std::int64_t first, std::int64_t count) {
        run(SumsSweep<T>{{panels, count}, staged.read(first), pivot, sum, sum_sq});
      });
    });
  }

  void apply(const Tensor& x, const Tensor& add, const Tensor& y, Samples samples, const ChannelMap& map,
             FusedRelu relu, std::uint8_t* mask) const override {
    if (add && relu == FusedRelu::recompute) {
      throw Error("batch norm: a ReLU behind a residual needs its mask as bits", ExitCode::failure);
    }
    with_type_of(x, [&](auto type) {
      using T = decltype(type);
      const Panels panels(x);
      const std::int64_t bytes = mask_bytes<T>(panels);
      Staged<T> staged_x(x, panels), staged_add(add, panels), staged_y(y, panels);
      const bool in_place = staged_x.in_place() && staged_add.in_place() && staged_y.in_place();
      for_samples(samples, in_place, [&](std::int64_t first, std::int64_t count) {
        run(ApplySweep<T>{{panels, count},
                          staged_x.read(first),
                          staged_add.read(first),
                          staged_y.write_to(first),
                          pick<T>(map.center, map.center_f),
                          pick<T>(map.scale, map.scale_f),
                          pick<T>(map.shift, map.shift_f),
                          relu,
                          mask_of(mask, first, bytes),
                          bytes});
        staged_y.written(first);
      });
    });
  }

  void backward_sums(const Tensor& x, const Tensor& dy, Samples samples, const ChannelMap& map, FusedRelu relu,
                     const std::uint8_t* mask, double* sum_dy, double* sum_dy_xc) const override {
    with_type_of(x, [&](auto type) {
      using T = decltype(type);
      const Panels panels(x);
      const std::int64_t bytes = mask_bytes<T>(panels);
      Staged<T> staged_x(x, panels), staged_dy(dy, panels);
      for_samples(samples, staged_x.in_place() && staged_dy.in_place(), [&](std::int64_t first, std::int64_t count) {
        run(BackwardSumsSweep<T>{{panels, count},
                                 staged_x.read(first),
                                 staged_dy.read(first),
                                 map.center.data(),
                                 pick<T>(map.scale, map.scale_f),
                                 pick<T>(map.shift, map.shift_f),
                                 relu,
                                 mask_of(mask, first, bytes),
                                 bytes,
                                 sum_dy,
                                 sum_dy_xc});
      });
    });
  }

  void backward(const Tensor& x, const Tensor& dy, const Tensor& dx, const Tensor& d_add, Samples samples,
                const ChannelMap& map, FusedRelu relu, const std::uint8_t* mask, const GradientMap& gradient,
                bool accumulate_dx, bool accumulate_add) const override {
    with_type_of(x, [&](auto type) {
      using T = decltype(type);
      const Panels panels(x);
      const std::int64_t bytes = mask_bytes<T>(panels);
      Staged<T> staged_x(x, panels), staged_dy(dy, panels), staged_dx(dx, panels), staged_add(d_add, panels);
      const bool in_place =
          staged_x.in_place() && staged_dy.in_place() && staged_dx.in_place() && staged_add.in_place();
      for_samples(samples, in_place, [&](std::int64_t first, std::int64_t count) {
        run(BackwardSweep<T>{{panels, count},
                             staged_x.read(first),
                             staged_dy.read(first),
                             accumulate_dx ? staged_dx.read(first) : staged_dx.write_to(first),
                             accumulate_add ? staged_add.read(first) : staged_add.write_to(first),
                             pick<T>(map.center, map.center_f),
                             pick<T>(map.scale, map.scale_f),
                             pick<T>(map.shift, map.shift_f),
                             pick<T>(gradient.p, gradient.p_f),
                             pick<T>(gradient.q, gradient.q_f),
                             pick<T>(gradient.r, gradient.r_f),
                             relu,
                             mask_of(mask, first, bytes),
                             bytes,
                             accumulate_dx,
                             accumulate_add});
        staged_dx.written(first);
        staged_add.written(first);
      });
    });
  }

  std::int64_t mask_bytes_per_sample(const Tensor& x) const override {
    return with_type_of(x, [&](auto type) { return mask_bytes<decltype(type)>(Panels(x)); });
  }
};

}  // namespace

std::unique_ptr<BatchNormKernels> make_batch_norm_kernels() {
  return std::make_unique<CpuBatchNorm>();
}

}  // namespace syncbn::ops::cpu
