#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <vector>

#include "ops/cuda/adapters.cuh"
#include "ops/cuda/kernels.cuh"
#include "syncbn/core/error.hpp"

namespace syncbn::ops::cuda {

namespace {

class CudaElementwise final : public Elementwise {
 public:
  explicit CudaElementwise(Queue& queue) : queue_(queue), ids_(queue) {}

  void activate(Activation kind, float slope, const Tensor& x, const Tensor& y, Samples s) const override {
    cuda::activate(queue_, kind, slope, at(x, s), at(y, s), s.count());
  }
  void activate_backward(Activation kind, float slope, const Tensor& y, const Tensor& dy, const Tensor& dx, Samples s,
                         bool accumulate) const override {
    cuda::activate_backward(queue_, kind, slope, at(y, s), at(dy, s), at(dx, s), s.count(), accumulate);
  }
  void add(const Tensor& a, const Tensor& b, const Tensor& y, Samples s) const override {
    cuda::add(queue_, at(a, s), at(b, s), at(y, s), s.count());
  }
  void copy(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const override {
    cuda::copy(queue_, at(x, s), at(y, s), s.count(), accumulate);
  }
  void dropout(const Tensor& x, const Tensor& y, Samples s, float p, std::uint64_t seed, std::uint64_t step,
               std::uint64_t layer_key, const std::int64_t* sample_ids, bool accumulate) const override {
    if (s.count() == 0) return;
    const std::span given(sample_ids + s.begin, static_cast<std::size_t>(s.count()));
    if (!std::equal(given.begin(), given.end(), sent_.begin(), sent_.end())) {  // those of the batch, for every layer
      sent_.assign(given.begin(), given.end());
      ids_.upload(sent_.data(), sent_.size());
    }
    const std::int64_t* ids = ids_.room(sent_.size());
    cuda::dropout(queue_, at(x, s), at(y, s), s.count(), p, seed, step, layer_key, ids, accumulate);
  }
  void global_average(const Tensor& x, const Tensor& y, Samples s) const override {
    cuda::global_average(queue_, at(x, s), at(y, s), s.count());
  }
  void global_average_backward(const Tensor& dy, const Tensor& dx, Samples s, bool accumulate) const override {
    cuda::global_average_backward(queue_, at(dy, s), at(dx, s), s.count(), accumulate);
  }
  void look_up(const std::uint8_t* bytes, const float* values, const Tensor& y, Samples s) const override {
    const std::int64_t per_sample = y.shape.c() * y.shape.spatial();
    cuda::look_up(queue_, bytes + s.begin * per_sample, values, at(y, s), s.count());
  }
  void reorder(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const override {
    cuda::reorder(queue_, at(x, s), at(y, s), s.count(), accumulate);
  }

 private:
  static Tensor at(const Tensor& t, Samples s) { return from_sample(t, s.begin); }
  Queue& queue_;
  mutable std::vector<std::int64_t> sent_;
  mutable Staging<std::int64_t> ids_;
};

class CudaPool final : public Pool {
 public:
  CudaPool(Queue& queue, const PoolGeometry& g) : queue_(queue), geometry_(g) {
    constexpr std::int64_t kLargest = 16;  // the places of a window fit into a byte
    if (g.kind == PoolKind::max && g.kernel > kLargest)
      throw Error(fmt::format("device: cuda: max pooling with a kernel of {0}x{0}: at most {1}x{1} are possible; use a "
                              "smaller kernel, or device: cpu",
                              g.kernel, kLargest),
                  ExitCode::usage);
  }
  std::int64_t workspace_bytes_per_sample() const override {
    return geometry_.kind == PoolKind::max ? geometry_.c * geometry_.h_out * geometry_.w_out : 0;
  }
  void forward(const Tensor& x, const Tensor& y, std::uint8_t* workspace, Samples s) override {
    cuda::pool(queue_, geometry_, from_sample(x, s.begin), from_sample(y, s.begin), places(workspace, s), s.count());
  }
  void backward(const Tensor& dy, const Tensor& dx, const std::uint8_t* workspace, Samples s,
                bool accumulate) override {
    cuda::pool_backward(queue_, geometry_, from_sample(dy, s.begin), from_sample(dx, s.begin), places(workspace, s),
                        s.count(), accumulate);
  }

 private:
  template <class Byte>
  Byte* places(Byte* workspace, Samples s) const {
    return workspace ? workspace + s.begin * workspace_bytes_per_sample() : nullptr;
  }
  Queue& queue_;
  PoolGeometry geometry_;
};

class CudaConv2dWeights final : public Conv2dWeights {
 public:
  CudaConv2dWeights(Queue& queue, const Conv2dGeometry& g, DataType type)
      : queue_(queue),
        shape_{g.c_out, g.c_in, g.kernel_h, g.kernel_w},
        type_(type),
        packed_(queue_, static_cast<std::size_t>(shape_.elements()) * size_of(type)) {}

  void pack(const float* weight) override {
    const Tensor from{const_cast<float*>(weight), shape_, DataType::f32, Layout::channels_first};
    reorder(queue_, from, {packed_.as<void>(), shape_, type_, Layout::channels_last}, shape_.n(), false);
  }
  /// Gradients come in canonical order already.
  void unpack_gradient(const float* packed, float* canonical) override {
    queue_.copy(canonical, packed, static_cast<std::size_t>(shape_.elements()) * sizeof(float),
                cudaMemcpyDeviceToDevice);
  }
  const void* packed() const { return packed_.as<void>(); }

 private:
  Queue& queue_;
  Shape shape_;
  DataType type_;
  DeviceMemory packed_;
};

class CudaConv2d final : public ops::Conv2d {
 public:
  CudaConv2d(Libraries& libraries, const Conv2dGeometry& g, Precision precision)
      : queue_(libraries.queue()), geometry_(g), conv_(libraries, g, precision) {}

  void forward(const Tensor& x, const Conv2dWeights& weight, const float* bias, const Tensor& y, Samples s) override {
    conv_.forward(part(x, s), packed(weight), bias, part(y, s), s.count());
  }
  void backward_data(const Tensor& dy, const Conv2dWeights& weight, const Tensor& dx, Samples s,
                     bool accumulate) override {
    conv_.backward_data(part(dy, s), packed(weight), part(dx, s), s.count(), accumulate);
  }
  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                        bool accumulate) override {
    if (!accumulate) {
      queue_.clear(d_weight, static_cast<std::size_t>(conv_.packed_count()) * sizeof(float));
      if (d_bias) queue_.clear(d_bias, static_cast<std::size_t>(geometry_.c_out) * sizeof(float));
    }
    conv_.backward_weights(part(x, {0, n}), part(dy, {0, n}), n, d_weight, d_bias);
  }

 private:
  static const void* packed(const Conv2dWeights& weight) {
    return static_cast<const CudaConv2dWeights&>(weight).packed();
  }
  static Tensor part(const Tensor& t, Samples s) {
    if (t.layout != Layout::channels_last) throw std::logic_error("convolutions on a device want channels last");
    return from_sample(t, s.begin);
  }

  Queue& queue_;
  Conv2dGeometry geometry_;
  cuda::Conv2d conv_;
};

class CudaLinear final : public ops::Linear {
 public:
  CudaLinear(Libraries& libraries, std::int64_t in, std::int64_t out, Precision precision)
      : queue_(libraries.queue()), in_(in), out_(out), linear_(libraries, in, out, precision) {}

  void forward(const Tensor& x, const void* weight, const float* bias, const Tensor& y, std::int64_t n) override {
    linear_.forward(x, weight, bias, y, n);
  }
  void backward_data(const Tensor& dy, const void* weight, const Tensor& dx, std::int64_t n, bool accumulate) override {
    linear_.backward_data(dy, weight, dx, n, accumulate);
  }
  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                        bool accumulate) override {
    if (!accumulate) {
      queue_.clear(d_weight, static_cast<std::size_t>(in_ * out_) * sizeof(float));
      if (d_bias) queue_.clear(d_bias, static_cast<std::size_t>(out_) * sizeof(float));
    }
    linear_.backward_weights(x, dy, n, d_weight, d_bias);
  }

 private:
  Queue& queue_;
  std::int64_t in_, out_;
  cuda::Linear linear_;
};

}  // namespace

std::unique_ptr<Elementwise> make_elementwise(Queue& queue) {
  return std::make_unique<CudaElementwise>(queue);
}
std::unique_ptr<Pool> make_pool(Queue& queue, const PoolGeometry& g) {
  return std::make_unique<CudaPool>(queue, g);
}
std::unique_ptr<Conv2dWeights> make_conv2d_weights(Queue& queue, const Conv2dGeometry& g, DataType type) {
  return std::make_unique<CudaConv2dWeights>(queue, g, type);
}
std::unique_ptr<ops::Conv2d> make_conv2d(Libraries& libraries, const Conv2dGeometry& g, Precision precision) {
  return std::make_unique<CudaConv2d>(libraries, g, precision);
}
std::unique_ptr<ops::Linear> make_linear(Libraries& libraries, std::int64_t in, std::int64_t out, Precision precision) {
  return std::make_unique<CudaLinear>(libraries, in, out, precision);
}

}  // namespace syncbn::ops::cuda
