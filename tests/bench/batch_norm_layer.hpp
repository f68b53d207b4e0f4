#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "bench/streams.hpp"
#include "ops/backend.hpp"
#include "ops/cpu/factories.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::bench {

using ops::FusedRelu;
using ops::Samples;

enum class Fused { nothing, relu, add_relu };

inline const char* name_of(Fused fused) {
  return fused == Fused::nothing ? "" : fused == Fused::relu ? " + relu" : " + add + relu";
}

/// One batch norm layer with its data.
class Layer {
 public:
  Layer(Shape shape, Layout layout, Fused fused) : map_(shape.c()), gradient_(shape.c()), fused_(fused) {
    for (auto* tensor : {&x_, &add_, &y_, &dy_, &dx_, &d_add_}) {
      tensor->shape = shape, tensor->layout = layout;
      buffers_.emplace_back(tensor->bytes());
      tensor->data = buffers_.back().data();
    }
    mask_.resize(static_cast<std::size_t>(kernels_->mask_bytes_per_sample(x_) * shape.n()));
    Random random(1, Purpose::test);
    for (const auto* tensor : {&x_, &add_, &dy_}) {
      for (std::int64_t i = 0; i < values(); ++i) tensor->as<float>()[i] = static_cast<float>(random.uniform()) - 0.5f;
    }
    const auto c = static_cast<std::size_t>(shape.c());
    pivot_.assign(c, 0.25);
    for (auto* sums : {&sum_, &sum_sq_, &sum_dy_, &sum_dy_xc_}) sums->assign(c, 0);
    for (std::size_t i = 0; i < c; ++i) {
      map_.center[i] = 0.125, map_.scale[i] = 1.5, map_.shift[i] = 0.1;
      gradient_.p[i] = 1.5, gradient_.q[i] = -0.2, gradient_.r[i] = 0.1;
    }
    map_.round();
    gradient_.round(map_);
  }

  std::int64_t values() const { return static_cast<std::int64_t>(x_.bytes() / sizeof(float)); }

  // The four sweeps, called for `chunk` samples at a time, the second of each pass from the last to the first.
  void sums(std::int64_t chunk) {
    for_chunks(chunk, [&](Samples s) { kernels_->sums(x_, s, pivot_.data(), sum_.data(), sum_sq_.data()); });
  }
  void apply(std::int64_t chunk) {
    const Tensor none, &add = fused_ == Fused::add_relu ? add_ : none;
    for_chunks_back(chunk, [&](Samples s) { kernels_->apply(x_, add, y_, s, map_, relu(), mask_.data()); });
  }
  void backward_sums(std::int64_t chunk) {
    for_chunks(chunk, [&](Samples s) {
      kernels_->backward_sums(x_, dy_, s, map_, relu(), mask_.data(), sum_dy_.data(), sum_dy_xc_.data());
    });
  }
  void backward_apply(std::int64_t chunk) {
    const Tensor none, &d_add = fused_ == Fused::add_relu ? d_add_ : none;
    for_chunks_back(chunk, [&](Samples s) {
      kernels_->backward(x_, dy_, dx_, d_add, s, map_, relu(), mask_.data(), gradient_, false, false);
    });
  }
  void forward(std::int64_t chunk) { sums(chunk), apply(chunk); }
  void backward(std::int64_t chunk) { backward_sums(chunk), backward_apply(chunk); }

  /// What comes next does at least this.
  void read(const Tensor& t) { sink_ = read_one(words(t), values()); }

  /// The same passes over the same memory.
  void stream_forward() {
    sink_ = read_one(words(x_), values());
    if (fused_ == Fused::add_relu) return triad(words(x_), words(add_), words(y_), values());
    copy(words(x_), words(y_), values());
  }
  void stream_backward() {
    sink_ = read_two(words(x_), words(dy_), values());
    if (fused_ == Fused::add_relu) {
      return triad_and_copy(words(x_), words(dy_), words(dx_), words(d_add_), values());
    }
    triad(words(x_), words(dy_), words(dx_), values());
  }

  const Tensor& x() const { return x_; }
  const Tensor& y() const { return y_; }
  const Tensor& dy() const { return dy_; }
  const Tensor& dx() const { return dx_; }

 private:
  static std::uint32_t* words(const Tensor& t) { return static_cast<std::uint32_t*>(t.data); }
  FusedRelu relu() const {
    return fused_ == Fused::nothing ? FusedRelu::none : fused_ == Fused::relu ? FusedRelu::recompute : FusedRelu::bits;
  }
  template <class Call>
  void for_chunks(std::int64_t chunk, Call call) {
    for (std::int64_t i = 0; i < x_.shape.n(); i += chunk) call(Samples{i, std::min(i + chunk, x_.shape.n())});
  }
  template <class Call>
  void for_chunks_back(std::int64_t chunk, Call call) {
    for (std::int64_t i = x_.shape.n(); i > 0; i -= chunk) call(Samples{std::max<std::int64_t>(i - chunk, 0), i});
  }

  std::unique_ptr<ops::BatchNormKernels> kernels_ = ops::cpu::make_batch_norm_kernels();
  std::vector<Buffer> buffers_;
  Tensor x_, add_, y_, dy_, dx_, d_add_;
  std::vector<std::uint8_t> mask_;
  std::vector<double> pivot_, sum_, sum_sq_, sum_dy_, sum_dy_xc_;
  ops::ChannelMap map_;
  ops::GradientMap gradient_;
  Fused fused_;
  volatile std::uint32_t sink_ = 0;
};

}  // namespace syncbn::bench
