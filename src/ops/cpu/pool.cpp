#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "core/round_up.hpp"
#include "ops/cpu/elementwise_sweeps.hpp"
#include "ops/cpu/factories.hpp"
#include "ops/cpu/onednn.hpp"
#include "ops/cpu/panels.hpp"

namespace syncbn::ops::cpu {
namespace {

using dnnl::memory;

/// The geometry in oneDNN's form; version 3 also takes dilations, where 0 means none.
auto windows(const memory::dims& strides, const memory::dims& kernel, const memory::dims& before,
             const memory::dims& after) {
  if constexpr (DNNL_VERSION_MAJOR < 3)
    return std::tuple(strides, kernel, before, after);
  else
    return std::tuple(strides, kernel, memory::dims{0, 0}, before, after);
}

/// A pooling that runs sample by sample.
class OneDnnPool final : public Pool {
 public:
  explicit OneDnnPool(const PoolGeometry& g)
      : geometry_(g),
        layout_(preferred_layout(g.c)),
        input_(activation_desc(1, padded_channels(g), g.h_in, g.w_in, layout_)),
        output_(activation_desc(1, padded_channels(g), g.h_out, g.w_out, layout_)) {
    make_with_onednn("a pooling over " + std::to_string(g.kernel) + "x" + std::to_string(g.kernel), [&] {
      make_tasks(g);
      return 0;
    });
  }

  std::int64_t workspace_bytes_per_sample() const override { return workspace_bytes_; }

  void forward(const Tensor& x, const Tensor& y, std::uint8_t* workspace, Samples s) override {
    require_layout(x, layout_, "pool");
    require_layout(y, layout_, "pool");
    for (std::int64_t i = s.begin; i < s.end; ++i) {
      forward_.set(DNNL_ARG_SRC, x.sample(i));
      forward_.set(DNNL_ARG_DST, y.sample(i));
      if (workspace_bytes_ > 0) forward_.set(DNNL_ARG_WORKSPACE, workspace + i * workspace_bytes_);
      forward_.run();
      if (geometry_.kind == PoolKind::max && contains_nan(x.sample(i), x.sample_stride())) spread_nan(x, y, i);
    }
  }

  void backward(const Tensor& dy, const Tensor& dx, const std::uint8_t* workspace, Samples s,
                bool accumulate) override {
    require_layout(dy, layout_, "pool");
    require_layout(dx, layout_, "pool");
    const std::int64_t count = dx.sample_stride();
    if (accumulate && sample_.size() == 0) sample_ = Buffer(static_cast<std::size_t>(count) * sizeof(float));
    for (std::int64_t i = s.begin; i < s.end; ++i) {
      backward_.set(DNNL_ARG_DIFF_DST, dy.sample(i));
      backward_.set(DNNL_ARG_DIFF_SRC, accumulate ? sample_.as<float>() : dx.sample(i));
      if (workspace_bytes_ > 0) backward_.set(DNNL_ARG_WORKSPACE, workspace + i * workspace_bytes_);
      backward_.run();
      if (accumulate) add(dx.sample(i), sample_.as<float>(), dx.sample(i), count);
    }
  }

 private:
  /// The channels including their padding of zeros, which is pooled with the rest.
  static std::int64_t padded_channels(const PoolGeometry& g) {
    return round_up<std::int64_t>(g.c, block_of(preferred_layout(g.c)));
  }

  /// Copies NaN to the output: oneDNN's maximum ignores NaN, which would hide an error in a computation.
  void spread_nan(const Tensor& x, const Tensor& y, std::int64_t sample) const {
    const auto& g = geometry_;
    const Panels from(x), to(y);
    for (std::int64_t c = 0; c < g.c; ++c) {
      for (std::int64_t i = 0; i < to.positions; ++i) {
        const std::int64_t top = i / g.w_out * g.stride - g.padding, left = i % g.w_out * g.stride - g.padding;
        for (std::int64_t h = std::max<std::int64_t>(top, 0); h < std::min(top + g.kernel, g.h_in); ++h) {
          for (std::int64_t w = std::max<std::int64_t>(left, 0); w < std::min(left + g.kernel, g.w_in); ++w) {
            const float value = x.sample(sample)[from.offset(c, h * g.w_in + w)];
            if (std::isnan(value)) y.sample(sample)[to.offset(c, i)] = value;
          }
        }
      }
    }
  }

  void make_tasks(const PoolGeometry& g) {
    const auto algorithm =
        g.kind == PoolKind::max ? dnnl::algorithm::pooling_max : dnnl::algorithm::pooling_avg_include_padding;
    const memory::dims strides{g.stride, g.stride}, kernel{g.kernel, g.kernel}, before{g.padding, g.padding};
    const memory::dims after{(g.h_out - 1) * g.stride + g.kernel - g.h_in - g.padding,
                             (g.w_out - 1) * g.stride + g.kernel - g.w_in - g.padding};
    const auto [forward, backward] = std::apply(
        [&](const auto&... dims) {
          const auto pd = describe_forward<dnnl::pooling_forward>(engine_, dnnl::prop_kind::forward_training, algorithm,
                                                                  input_, output_, dims...);
          return std::pair(pd,
                           describe_backward<dnnl::pooling_backward>(engine_, pd, algorithm, input_, output_, dims...));
        },
        windows(strides, kernel, before, after));
    const memory::desc workspace = g.kind == PoolKind::max ? forward.workspace_desc() : memory::desc();
    workspace_bytes_ = static_cast<std::int64_t>(workspace.get_size());
    forward_ =
        Task(engine_, forward, {{DNNL_ARG_SRC, input_}, {DNNL_ARG_DST, output_}, {DNNL_ARG_WORKSPACE, workspace}});
    backward_ = Task(engine_, backward,
                     {{DNNL_ARG_DIFF_DST, output_}, {DNNL_ARG_DIFF_SRC, input_}, {DNNL_ARG_WORKSPACE, workspace}});
  }

  PoolGeometry geometry_;
  Layout layout_;
  memory::desc input_, output_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  Task forward_, backward_;
  std::int64_t workspace_bytes_ = 0;
  Buffer sample_;
};

}  // namespace

std::unique_ptr<Pool> make_pool(const PoolGeometry& g) {
  return std::make_unique<OneDnnPool>(g);
}

}  // namespace syncbn::ops::cpu
