#include <map>

#include "ops/cpu/elementwise_sweeps.hpp"
#include "ops/cpu/factories.hpp"
#include "ops/cpu/onednn.hpp"

namespace syncbn::ops::cpu {
namespace {

using dnnl::memory;

/// A linear layer with plain row-major operands, so that the weights need no packing. One set of primitives per number
/// of samples.
class OneDnnLinear final : public Linear {
 public:
  OneDnnLinear(std::int64_t in, std::int64_t out, bool bias)
      : in_(in),
        out_(out),
        bias_(bias),
        weight_desc_({out, in}, memory::data_type::f32, memory::format_tag::ab),
        scratch_bias_(static_cast<std::size_t>(out) * sizeof(double)) {}

  void forward(const Tensor& x, const void* weight, const float* bias, const Tensor& y, std::int64_t n) override {
    if (n == 0) return;
    Task& task = find(n).forward;
    if (!task) task = make_forward(n);
    task.set(DNNL_ARG_SRC, x.data);
    task.set(DNNL_ARG_WEIGHTS, weight);
    if (bias_) task.set(DNNL_ARG_BIAS, bias);
    task.set(DNNL_ARG_DST, y.data);
    task.run();
  }

  void backward_data(const Tensor& dy, const void* weight, const Tensor& dx, std::int64_t n, bool accumulate) override {
    if (n == 0) return;
    PerCount& tasks = find(n);
    if (!tasks.backward_data) tasks.backward_data = make_backward_data(n);
    const auto bytes = static_cast<std::size_t>(n * in_) * sizeof(float);
    if (accumulate && scratch_data_.size() < bytes) scratch_data_ = Buffer(bytes);
    Task& task = tasks.backward_data;
    task.set(DNNL_ARG_DIFF_DST, dy.data);
    task.set(DNNL_ARG_WEIGHTS, weight);
    task.set(DNNL_ARG_DIFF_SRC, accumulate ? scratch_data_.data() : dx.data);
    task.run();
    if (accumulate) add(dx.as<float>(), scratch_data_.as<float>(), dx.as<float>(), n * in_);
  }

  void backward_weights(const Tensor& x, const Tensor& dy, std::int64_t n, float* d_weight, float* d_bias,
                        bool accumulate) override {
    if (!accumulate && n == 0) std::fill_n(d_weight, out_ * in_, 0.0f);
    if (!accumulate && bias_) std::fill_n(d_bias, out_, 0.0f);
    if (n == 0) return;
    PerCount& tasks = find(n);
    if (!tasks.backward_weights) tasks.backward_weights = make_backward_weights(n);
    Task& task = tasks.backward_weights;
    const std::size_t bytes = static_cast<std::size_t>(out_ * in_) * sizeof(float);
    if (accumulate && scratch_weight_.size() < bytes) scratch_weight_ = Buffer(bytes);
    task.set(DNNL_ARG_SRC, x.data);
    task.set(DNNL_ARG_DIFF_DST, dy.data);
    task.set(DNNL_ARG_DIFF_WEIGHTS, accumulate ? scratch_weight_.as<float>() : d_weight);
    task.run();
    if (accumulate) add(d_weight, scratch_weight_.as<float>(), d_weight, out_ * in_);
    if (bias_) add_bias_gradient(dy, n, d_bias);
  }

 private:
  struct PerCount {
    Task forward, backward_data, backward_weights;
  };

  PerCount& find(std::int64_t n) { return tasks_[n]; }
  memory::desc rows(std::int64_t n, std::int64_t width) const {
    return {{n, width}, memory::data_type::f32, memory::format_tag::ab};
  }
  memory::desc bias_desc() const {
    return bias_ ? memory::desc({out_}, memory::data_type::f32, memory::format_tag::a) : memory::desc();
  }
  std::string describe() const { return "a linear layer " + std::to_string(in_) + " -> " + std::to_string(out_); }
  dnnl::inner_product_forward::primitive_desc forward_pd(std::int64_t n) const {
    return describe_forward<dnnl::inner_product_forward>(engine_, dnnl::prop_kind::forward_training, rows(n, in_),
                                                         weight_desc_, bias_desc(), rows(n, out_));
  }
  Task make_forward(std::int64_t n) const {
    return make_with_onednn(describe(), [&] {
      return Task(engine_, forward_pd(n),
                  {{DNNL_ARG_SRC, rows(n, in_)},
                   {DNNL_ARG_WEIGHTS, weight_desc_},
                   {DNNL_ARG_BIAS, bias_desc()},
                   {DNNL_ARG_DST, rows(n, out_)}});
    });
  }
  Task make_backward_data(std::int64_t n) const {
    return make_with_onednn(describe(), [&] {
      const auto pd = describe_backward<dnnl::inner_product_backward_data>(engine_, forward_pd(n), rows(n, in_),
                                                                           weight_desc_, rows(n, out_));
      return Task(
          engine_, pd,
          {{DNNL_ARG_DIFF_DST, rows(n, out_)}, {DNNL_ARG_WEIGHTS, weight_desc_}, {DNNL_ARG_DIFF_SRC, rows(n, in_)}});
    });
  }
  Task make_backward_weights(std::int64_t n) const {
    return make_with_onednn(describe(), [&] {
      const auto pd = describe_backward<dnnl::inner_product_backward_weights>(engine_, forward_pd(n), rows(n, in_),
                                                                              weight_desc_, rows(n, out_));
      return Task(
          engine_, pd,
          {{DNNL_ARG_SRC, rows(n, in_)}, {DNNL_ARG_DIFF_DST, rows(n, out_)}, {DNNL_ARG_DIFF_WEIGHTS, weight_desc_}});
    });
  }
  void add_bias_gradient(const Tensor& dy, std::int64_t n, float* d_bias) {
    auto* sums = scratch_bias_.as<double>();
    for (std::int64_t o = 0; o < out_; ++o) sums[o] = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const float* row = dy.as<float>() + i * out_;
      for (std::int64_t o = 0; o < out_; ++o) sums[o] += row[o];
    }
    for (std::int64_t o = 0; o < out_; ++o) d_bias[o] += static_cast<float>(sums[o]);
  }

  std::int64_t in_, out_;
  bool bias_;
  memory::desc weight_desc_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  std::map<std::int64_t, PerCount> tasks_;
  Buffer scratch_weight_, scratch_bias_, scratch_data_;
};

}  // namespace

std::unique_ptr<Linear> make_linear(std::int64_t in, std::int64_t out, bool bias) {
  return std::make_unique<OneDnnLinear>(in, out, bias);
}

}  // namespace syncbn::ops::cpu
