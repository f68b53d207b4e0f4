#include <algorithm>
#include <cstring>
#include <map>
#include <string_view>

#include "core/round_up.hpp"
#include "ops/cpu/elementwise_sweeps.hpp"
#include "ops/cpu/factories.hpp"
#include "ops/cpu/onednn.hpp"

namespace syncbn::ops::cpu {
namespace {

using dnnl::convolution_backward_data;
using dnnl::convolution_backward_weights;
using dnnl::convolution_forward;
using dnnl::memory;

std::string describe(const Conv2dGeometry& g) {
  const auto s = [](std::int64_t value) { return std::to_string(value); };
  return "a convolution [" + s(g.c_in) + ", " + s(g.h_in) + ", " + s(g.w_in) + "] -> [" + s(g.c_out) + ", " +
         s(g.h_out) + ", " + s(g.w_out) + "], kernel " + s(g.kernel_h) + "x" + s(g.kernel_w) + ", stride " +
         s(g.stride) + ", padding " + s(g.padding);
}

/// oneDNN's vector kernels need blocked activations; images of 1 or 3 channels may be plain if they are only read.
Layout kernel_layout(std::int64_t channels, bool only_read) {
  constexpr std::int64_t kBlocked = 8;
  return only_read && (channels == 1 || channels == 3) ? Layout::channels_first
                                                       : preferred_layout(std::max(channels, kBlocked));
}

std::int64_t padded(std::int64_t channels, Layout layout) {
  return round_up<std::int64_t>(channels, block_of(layout));
}

/// Descriptions of the three passes, for any number of samples. The padding of blocked layouts counts as channels
/// (whose weights are 0), since oneDNN has no fast kernels for fewer channels than a block. It chooses the formats of
/// the weights, which depend only on the geometry.
class Descriptions {
 public:
  explicit Descriptions(const Conv2dGeometry& g)
      : geometry(g),
        source(kernel_layout(g.c_in, true)),
        blocked(kernel_layout(g.c_in, false)),
        target(kernel_layout(g.c_out, false)),
        // For some plain images the forward pass is fast, but the weight gradient only has the reference code.
        gradient_source(is_reference(backward_weights(1, source, weights(source))) ? blocked : source) {}

  /// Describes x or dx; y or dy.
  memory::desc x(std::int64_t n, Layout layout) const {
    return activation_desc(n, padded(geometry.c_in, layout), geometry.h_in, geometry.w_in, layout);
  }
  memory::desc y(std::int64_t n) const {
    return activation_desc(n, padded(geometry.c_out, target), geometry.h_out, geometry.w_out, target);
  }

  /// Describes weights [c_out, c_in, kh, kw] with both channels padded.
  memory::desc weights(Layout input, memory::format_tag format = memory::format_tag::any) const {
    const auto& g = geometry;
    return {{padded(g.c_out, target), padded(g.c_in, input), g.kernel_h, g.kernel_w}, memory::data_type::f32, format};
  }
  memory::desc bias() const {
    return geometry.bias ? memory::desc({padded(geometry.c_out, target)}, memory::data_type::f32, memory::format_tag::x)
                         : memory::desc();
  }
  convolution_forward::primitive_desc forward(std::int64_t n, Layout layout) const {
    return describe_forward<convolution_forward>(engine, dnnl::prop_kind::forward_training,
                                                 dnnl::algorithm::convolution_direct, x(n, layout), weights(layout),
                                                 bias(), y(n), strides(), padding_before(), padding_after());
  }
  convolution_backward_data::primitive_desc backward_data() const {
    return describe_backward<convolution_backward_data>(
        engine, forward(1, blocked), dnnl::algorithm::convolution_direct, x(1, blocked), weights(blocked), y(1),
        strides(), padding_before(), padding_after());
  }
  convolution_backward_weights::primitive_desc backward_weights(std::int64_t n, Layout layout,
                                                                const memory::desc& gradient) const {
    return describe_backward<convolution_backward_weights>(engine, forward(n, layout),
                                                           dnnl::algorithm::convolution_direct, x(n, layout), gradient,
                                                           bias(), y(n), strides(), padding_before(), padding_after());
  }
  /// The format in which the gradient of the weights comes, however many samples there are.
  memory::desc gradient() const {
    return backward_weights(1, gradient_source, weights(gradient_source)).diff_weights_desc();
  }

  Conv2dGeometry geometry;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  Layout source;           ///< of x in forward
  Layout blocked;          ///< of dx
  Layout target;           ///< of y and dy
  Layout gradient_source;  ///< of x in the weight gradient

 private:
  static bool is_reference(const convolution_backward_weights::primitive_desc& pd) {
    return std::string_view(pd.impl_info_str()).starts_with("ref");
  }
  memory::dims strides() const { return {geometry.stride, geometry.stride}; }
  memory::dims padding_before() const { return {geometry.padding, geometry.padding}; }
  memory::dims padding_after() const {
    const auto& g = geometry;
    return {(g.h_out - 1) * g.stride + g.kernel_h - g.h_in - g.padding,
            (g.w_out - 1) * g.stride + g.kernel_w - g.w_in - g.padding};
  }
};

Task make_reorder(const dnnl::engine& engine, const memory::desc& from, const memory::desc& to) {
  const dnnl::reorder::primitive_desc pd(engine, from, engine, to, task_attributes());
  return {engine, pd, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}}};
}

/// Converts between weights in canonical order and in a format of oneDNN.
class Form {
 public:
  Form() = default;
  Form(const Descriptions& d, Layout input, const memory::desc& format)
      : rows_(d.geometry.c_out),
        row_(d.geometry.c_in * d.geometry.kernel_h * d.geometry.kernel_w),
        padded_row_(padded(d.geometry.c_in, input) * d.geometry.kernel_h * d.geometry.kernel_w),
        bytes_(format.get_size()),
        plain_(is_exact() ? 0 : d.weights(input, memory::format_tag::oihw).get_size()),
        from_plain_(make_reorder(d.engine, d.weights(input, memory::format_tag::oihw), format)),
        to_plain_(make_reorder(d.engine, format, d.weights(input, memory::format_tag::oihw))) {}

  std::size_t bytes() const { return bytes_; }
  void copy_from(const float* weight, void* values) {
    for (std::int64_t o = 0; o < rows_ && !is_exact(); ++o)
      std::copy_n(weight + o * row_, row_, plain_.as<float>() + o * padded_row_);
    from_plain_.set(DNNL_ARG_FROM, is_exact() ? weight : plain_.as<float>());
    from_plain_.set(DNNL_ARG_TO, values);
    from_plain_.run();
  }
  /// Whether there is no padding, so that both forms have the same number of values.
  bool is_exact() const { return bytes_ == static_cast<std::size_t>(rows_ * row_) * sizeof(float); }
  /// Copies to canonical order.
  void copy_to(const void* values, float* weight) {
    to_plain_.set(DNNL_ARG_FROM, const_cast<void*>(values));
    to_plain_.set(DNNL_ARG_TO, is_exact() ? weight : plain_.as<float>());
    to_plain_.run();
    for (std::int64_t o = 0; o < rows_ && !is_exact(); ++o)
      std::copy_n(plain_.as<float>() + o * padded_row_, row_, weight + o * row_);
  }

 private:
  std::int64_t rows_ = 0, row_ = 0, padded_row_ = 0;
  std::size_t bytes_ = 0;
  Buffer plain_;  // canonical, padded with zeros; unused without padding
  Task from_plain_, to_plain_;
};

/// The weights in the formats of the two passes that read them.
class PackedWeights final : public Conv2dWeights {
 public:
  PackedWeights(const Conv2dGeometry& g, const Allocate& allocate)
      : count_(g.c_out * g.c_in * g.kernel_h * g.kernel_w) {
    make_with_onednn(describe(g), [&] {
      const Descriptions d(g);
      to_forward_ = Form(d, d.source, d.forward(1, d.source).weights_desc());
      to_backward_ = Form(d, d.blocked, d.backward_data().weights_desc());
      gradient_ = Form(d, d.gradient_source, d.gradient());
      return 0;
    });
    forward_ = allocate(to_forward_.bytes());
    backward_ = allocate(to_backward_.bytes());
  }
  void* forward() const { return forward_.data(); }
  void* backward() const { return backward_.data(); }

  void pack(const float* weight) override {
    to_forward_.copy_from(weight, forward());
    to_backward_.copy_from(weight, backward());
  }
  void unpack_gradient(const float* packed, float* canonical) override {
    if (gradient_.is_exact())
      gradient_.copy_to(packed, canonical);
    else
      std::copy_n(packed, count_, canonical);
  }

 private:
  Form to_forward_, to_backward_, gradient_;
  Memory forward_, backward_;
  std::int64_t count_;
};

/// Samples in the layout of a kernel: in place if the tensor has it, otherwise in a buffer.
class Staging {
 public:
  Tensor read(const Tensor& t, Samples s, Layout layout) {
    const Tensor staged = place(t, s, layout);
    if (t.layout != layout) reorder(window(t, s), staged, {0, s.count()}, false);
    return staged;
  }
  /// Where a kernel writes its result; to be followed by written().
  Tensor place(const Tensor& t, Samples s, Layout layout, bool in_place = true) {
    Tensor staged = window(t, s);
    if (t.layout == layout && in_place) return staged;
    staged.layout = layout;
    if (buffer_.size() < staged.bytes()) buffer_ = Buffer(staged.bytes());
    staged.data = buffer_.data();
    return staged;
  }
  void written(const Tensor& staged, const Tensor& t, Samples s, bool accumulate) {
    const Tensor target = window(t, s);
    if (staged.data != target.data) reorder(staged, target, {0, s.count()}, accumulate);
  }

 private:
  static Tensor window(const Tensor& t, Samples s) {
    Tensor part = t;
    part.data = t.sample(s.begin);
    part.shape = t.shape.with_n(s.count());
    return part;
  }
  Buffer buffer_;
};

/// A convolution. Forward and the gradient of the input run sample by sample, so that a caller can go through samples
/// in cache and nothing depends on the batch size. The gradient of the weights needs the whole batch at once.
class OneDnnConv2d final : public Conv2d {
 public:
  explicit OneDnnConv2d(const Conv2dGeometry& g) : d_(g), count_(g.c_out * g.c_in * g.kernel_h * g.kernel_w) {
    forward_ = make_with_onednn(describe(g), [&] {
      const auto pd = d_.forward(1, d_.source);
      return Task(d_.engine, pd,
                  {{DNNL_ARG_SRC, d_.x(1, d_.source)},
                   {DNNL_ARG_WEIGHTS, pd.weights_desc()},
                   {DNNL_ARG_BIAS, d_.bias()},
                   {DNNL_ARG_DST, d_.y(1)}});
    });
    if (g.bias) bias_ = Buffer(d_.bias().get_size());
  }

  void forward(const Tensor& x, const Conv2dWeights& weight, const float* bias, const Tensor& y, Samples s) override {
    forward_.set(DNNL_ARG_WEIGHTS, static_cast<const PackedWeights&>(weight).forward());
    if (d_.geometry.bias) {
      std::copy_n(bias, d_.geometry.c_out, bias_.as<float>());
      forward_.set(DNNL_ARG_BIAS, bias_.data());
    }
    for (std::int64_t i = s.begin; i < s.end; ++i) {
      const Samples one{i, i + 1};
      const Tensor to = output_.place(y, one, d_.target);
      forward_.set(DNNL_ARG_SRC, input_.read(x, one, d_.source).data);
      forward_.set(DNNL_ARG_DST, to.data);
      forward_.run();
      output_.written(to, y, one, false);
    }
  }

  void backward_data(const Tensor& dy, const Conv2dWeights& weight, const Tensor& dx, Samples s,
                     bool accumulate) override {
    if (!backward_data_) make_backward_data();
    backward_data_.set(DNNL_ARG_WEIGHTS, static_cast<const PackedWeights&>(weight).backward());
    for (std::int64_t i = s.begin; i < s.end; ++i) {
      const Samples one{i, i + 1};
      const Tensor to = input_.place(dx, one, d_.blocked, !accumulate);
      backward_data_.set(DNNL_ARG_DIFF_DST, output_.read(dy, one, d_.target).data);
      backward_data_.set(DNNL_ARG_DIFF_SRC, to.data);
      backward_data_.run();
      input_.written(to, dx, one, accumulate);
    }
  }

  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                        bool accumulate) override {
    if (n == 0) {
      if (!accumulate) std::fill_n(d_weight, count_, 0.0f);
      if (!accumulate && d_.geometry.bias) std::fill_n(d_bias, d_.geometry.c_out, 0.0f);
      return;
    }
    Task& task = batch_task(n);
    const bool in_place = gradient_.is_exact() && !accumulate;
    if (!in_place && scratch_.size() == 0) scratch_ = Buffer(d_.gradient().get_size());
    float* target = in_place ? d_weight : scratch_.as<float>();
    task.set(DNNL_ARG_SRC, input_.read(x, {0, n}, d_.gradient_source).data);
    task.set(DNNL_ARG_DIFF_DST, output_.read(dy, {0, n}, d_.target).data);
    task.set(DNNL_ARG_DIFF_WEIGHTS, target);
    if (d_.geometry.bias) task.set(DNNL_ARG_DIFF_BIAS, bias_.data());
    task.run();
    if (!in_place) take(d_weight, accumulate);
    if (!d_.geometry.bias) return;
    assign_or_add(bias_.as<float>(), d_bias, d_.geometry.c_out, accumulate);
    std::memset(bias_.data(), 0, bias_.size());  // the padding must be 0 when the bias is copied in again
  }

 private:
  static void assign_or_add(const float* from, float* to, std::int64_t count, bool accumulate) {
    if (accumulate)
      add(to, from, to, count);
    else
      std::copy_n(from, count, to);
  }

  /// Moves the gradient from scratch memory to its destination; padded gradients are converted to canonical order,
  /// since they are larger than the destination.
  void take(float* d_weight, bool accumulate) {
    const float* from = scratch_.as<float>();
    if (!gradient_.is_exact()) {
      gradient_.copy_to(from, canonical_.as<float>());
      from = canonical_.as<float>();
    }
    assign_or_add(from, d_weight, count_, accumulate);
  }

  void make_backward_data() {
    backward_data_ = make_with_onednn("the input gradient of " + describe(d_.geometry), [&] {
      const auto pd = d_.backward_data();
      return Task(d_.engine, pd,
                  {{DNNL_ARG_DIFF_DST, d_.y(1)},
                   {DNNL_ARG_WEIGHTS, pd.weights_desc()},
                   {DNNL_ARG_DIFF_SRC, d_.x(1, d_.blocked)}});
    });
  }

  Task& batch_task(std::int64_t n) {
    if (const auto found = batch_tasks_.find(n); found != batch_tasks_.end()) return found->second;
    return make_with_onednn("the weight gradient of " + describe(d_.geometry), [&]() -> Task& {
      if (batch_tasks_.empty()) {
        gradient_ = Form(d_, d_.gradient_source, d_.gradient());
        if (!gradient_.is_exact()) canonical_ = Buffer(static_cast<std::size_t>(count_) * sizeof(float));
      }
      Task task(d_.engine, d_.backward_weights(n, d_.gradient_source, d_.gradient()),
                {{DNNL_ARG_SRC, d_.x(n, d_.gradient_source)},
                 {DNNL_ARG_DIFF_DST, d_.y(n)},
                 {DNNL_ARG_DIFF_WEIGHTS, d_.gradient()},
                 {DNNL_ARG_DIFF_BIAS, d_.bias()}});
      return batch_tasks_.emplace(n, std::move(task)).first->second;
    });
  }

  Descriptions d_;
  Task forward_, backward_data_;
  std::map<std::int64_t, Task> batch_tasks_;  // by number of samples, of which there are few
  const std::int64_t count_;                  // of the weights
  Form gradient_;
  Buffer scratch_, canonical_;  // for the weights' gradient
  Staging input_, output_;
  Buffer bias_;  // padded to y's channels
};

}  // namespace

std::unique_ptr<Conv2dWeights> make_conv2d_weights(const Conv2dGeometry& g, const Allocate& allocate) {
  return std::make_unique<PackedWeights>(g, allocate);
}

std::unique_ptr<Conv2d> make_conv2d(const Conv2dGeometry& g) {
  return std::make_unique<OneDnnConv2d>(g);
}

}  // namespace syncbn::ops::cpu
