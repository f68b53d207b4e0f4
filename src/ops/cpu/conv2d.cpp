#include <map>

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

/// Descriptions of the three passes, for any number of samples. oneDNN chooses the formats of the weights, which
/// depend on nothing but the geometry.
class Descriptions {
 public:
  explicit Descriptions(const Conv2dGeometry& g)
      : geometry(g),
        input_layout(preferred_layout(g.c_in)),
        output_layout(preferred_layout(g.c_out)),
        canonical({g.c_out, g.c_in, g.kernel_h, g.kernel_w}, memory::data_type::f32, memory::format_tag::oihw) {}

  memory::desc input(std::int64_t n) const {
    return activation_desc(n, geometry.c_in, geometry.h_in, geometry.w_in, input_layout);
  }
  memory::desc output(std::int64_t n) const {
    return activation_desc(n, geometry.c_out, geometry.h_out, geometry.w_out, output_layout);
  }
  memory::desc bias() const {
    return geometry.bias ? memory::desc({geometry.c_out}, memory::data_type::f32, memory::format_tag::x)
                         : memory::desc();
  }
  convolution_forward::primitive_desc forward(std::int64_t n) const {
    return {{dnnl::prop_kind::forward_training, dnnl::algorithm::convolution_direct, input(n), any_weights(), bias(),
             output(n), strides(), padding_before(), padding_after()},
            task_attributes(),
            engine};
  }
  convolution_backward_data::primitive_desc backward_data() const {
    return {{dnnl::algorithm::convolution_direct, input(1), any_weights(), output(1), strides(), padding_before(),
             padding_after()},
            task_attributes(),
            engine,
            forward(1)};
  }
  convolution_backward_weights::primitive_desc backward_weights(std::int64_t n) const {
    return {{dnnl::algorithm::convolution_direct, input(n), any_weights(), bias(), output(n), strides(),
             padding_before(), padding_after()},
            task_attributes(),
            engine,
            forward(n)};
  }

  Conv2dGeometry geometry;
  Layout input_layout, output_layout;
  memory::desc canonical;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};

 private:
  memory::desc any_weights() const { return {canonical.dims(), memory::data_type::f32, memory::format_tag::any}; }
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

/// The weights in the formats of the two passes that read them.
class PackedWeights final : public Conv2dWeights {
 public:
  explicit PackedWeights(const Conv2dGeometry& g) {
    make_with_onednn(describe(g), [&] {
      const Descriptions d(g);
      forward_ = memory(d.forward(1).weights_desc(), d.engine);
      backward_ = memory(d.backward_data().weights_desc(), d.engine);
      to_forward_ = make_reorder(d.engine, d.canonical, forward_.get_desc());
      to_backward_ = make_reorder(d.engine, d.canonical, backward_.get_desc());
      return 0;
    });
  }

  void pack(const float* weight) override {
    to_forward_.set(DNNL_ARG_FROM, weight);
    to_forward_.set(DNNL_ARG_TO, forward_);
    to_forward_.run();
    to_backward_.set(DNNL_ARG_FROM, weight);
    to_backward_.set(DNNL_ARG_TO, backward_);
    to_backward_.run();
  }

  const memory& forward_form() const { return forward_; }
  const memory& backward_form() const { return backward_; }

 private:
  memory forward_, backward_;
  Task to_forward_, to_backward_;
};

/// Forward and the gradient of the input run sample by sample, so that a caller can walk over samples in cache and
/// nothing depends on the size of the batch. The gradient of the weights wants the whole batch at once.
class OneDnnConv2d final : public Conv2d {
 public:
  explicit OneDnnConv2d(const Conv2dGeometry& g) : d_(g) {
    forward_ = make_with_onednn(describe(g), [&] {
      const auto pd = d_.forward(1);
      return Task(d_.engine, pd,
                  {{DNNL_ARG_SRC, d_.input(1)},
                   {DNNL_ARG_WEIGHTS, pd.weights_desc()},
                   {DNNL_ARG_BIAS, d_.bias()},
                   {DNNL_ARG_DST, d_.output(1)}});
    });
  }

  void forward(const Tensor& x, const Conv2dWeights& weight, const float* bias, const Tensor& y, Samples s) override {
    require_layout(x, d_.input_layout, "conv2d");
    require_layout(y, d_.output_layout, "conv2d");
    forward_.set(DNNL_ARG_WEIGHTS, static_cast<const PackedWeights&>(weight).forward_form());
    if (d_.geometry.bias) forward_.set(DNNL_ARG_BIAS, bias);
    for (std::int64_t i = s.begin; i < s.end; ++i) {
      forward_.set(DNNL_ARG_SRC, x.sample(i));
      forward_.set(DNNL_ARG_DST, y.sample(i));
      forward_.run();
    }
  }

  void backward_data(const Tensor& dy, const Conv2dWeights& weight, const Tensor& dx, Samples s,
                     bool accumulate) override {
    require_layout(dy, d_.output_layout, "conv2d");
    require_layout(dx, d_.input_layout, "conv2d");
    if (!backward_data_) make_backward_data();
    const std::int64_t count = dx.sample_stride();
    if (accumulate && sample_.size() == 0) sample_ = Buffer(static_cast<std::size_t>(count) * sizeof(float));
    backward_data_.set(DNNL_ARG_WEIGHTS, static_cast<const PackedWeights&>(weight).backward_form());
    for (std::int64_t i = s.begin; i < s.end; ++i) {
      backward_data_.set(DNNL_ARG_DIFF_DST, dy.sample(i));
      backward_data_.set(DNNL_ARG_DIFF_SRC, accumulate ? sample_.as<float>() : dx.sample(i));
      backward_data_.run();
      if (accumulate) add(dx.sample(i), sample_.as<float>(), dx.sample(i), count);
    }
  }

  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias) override {
    require_layout(x, d_.input_layout, "conv2d");
    require_layout(dy, d_.output_layout, "conv2d");
    if (n == 0) return;
    BatchTask& batch = batch_task(n);
    batch.gradient.set(DNNL_ARG_SRC, x.data);
    batch.gradient.set(DNNL_ARG_DIFF_DST, dy.data);
    batch.gradient.set(DNNL_ARG_DIFF_WEIGHTS, batch.diff_weights);
    if (d_.geometry.bias) batch.gradient.set(DNNL_ARG_DIFF_BIAS, bias_.as<float>());
    batch.gradient.run();
    batch.to_canonical.set(DNNL_ARG_FROM, batch.diff_weights);
    batch.to_canonical.set(DNNL_ARG_TO, canonical_.as<float>());
    batch.to_canonical.run();
    const auto& g = d_.geometry;
    add(d_weight, canonical_.as<float>(), d_weight, g.c_out * g.c_in * g.kernel_h * g.kernel_w);
    if (g.bias) add(d_bias, bias_.as<float>(), d_bias, g.c_out);
  }

 private:
  struct BatchTask {
    Task gradient, to_canonical;
    memory diff_weights;
  };

  void make_backward_data() {
    backward_data_ = make_with_onednn("the input gradient of " + describe(d_.geometry), [&] {
      const auto pd = d_.backward_data();
      return Task(
          d_.engine, pd,
          {{DNNL_ARG_DIFF_DST, d_.output(1)}, {DNNL_ARG_WEIGHTS, pd.weights_desc()}, {DNNL_ARG_DIFF_SRC, d_.input(1)}});
    });
  }

  BatchTask& batch_task(std::int64_t n) {
    if (const auto found = batch_tasks_.find(n); found != batch_tasks_.end()) return found->second;
    return make_with_onednn("the weight gradient of " + describe(d_.geometry), [&]() -> BatchTask& {
      const auto pd = d_.backward_weights(n);
      const auto format = pd.diff_weights_desc();
      BatchTask task{Task(d_.engine, pd,
                          {{DNNL_ARG_SRC, d_.input(n)},
                           {DNNL_ARG_DIFF_DST, d_.output(n)},
                           {DNNL_ARG_DIFF_WEIGHTS, format},
                           {DNNL_ARG_DIFF_BIAS, d_.bias()}}),
                     make_reorder(d_.engine, format, d_.canonical), memory(format, d_.engine)};
      if (canonical_.size() == 0) {
        canonical_ = Buffer(d_.canonical.get_size());
        bias_ = Buffer(static_cast<std::size_t>(d_.geometry.c_out) * sizeof(float));
      }
      return batch_tasks_.emplace(n, std::move(task)).first->second;
    });
  }

  Descriptions d_;
  Task forward_, backward_data_;
  std::map<std::int64_t, BatchTask> batch_tasks_;  // by number of samples; few occur
  Buffer sample_, canonical_, bias_;
};

}  // namespace

std::unique_ptr<Conv2dWeights> make_conv2d_weights(const Conv2dGeometry& g) {
  return std::make_unique<PackedWeights>(g);
}

std::unique_ptr<Conv2d> make_conv2d(const Conv2dGeometry& g) {
  return std::make_unique<OneDnnConv2d>(g);
}

}  // namespace syncbn::ops::cpu
