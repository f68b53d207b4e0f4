#include <cmath>

#include "ops/cpu/factories.hpp"
#include "ops/cpu/panels.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::ops::cpu {
namespace {

/// y[i] = or += value(i) for all values of the samples.
template <class Value>
void for_values(const Tensor& like, Samples s, bool accumulate, float* y, Value value) {
  const std::int64_t stride = like.sample_stride(), end = s.end * stride;
  if (accumulate) {
    for (std::int64_t i = s.begin * stride; i < end; ++i) y[i] += value(i);
  } else {
    for (std::int64_t i = s.begin * stride; i < end; ++i) y[i] = value(i);
  }
}

/// Padding of blocked layouts holds zeros.
void clear_padding(const Tensor& y, Samples s) {
  const Panels panels(y);
  if (!panels.padded()) return;
  for (std::int64_t n = s.begin; n < s.end; ++n) {
    for (std::int64_t c = panels.channels; c < panels.count * panels.width; ++c) {
      for (std::int64_t i = 0; i < panels.positions; ++i) y.sample(n)[panels.offset(c, i)] = 0;
    }
  }
}

/// The samples of x as if they had the channels and positions of `shape`. [N, F] in any layout is a plain row.
Panels panels_as(const Tensor& x, const Shape& shape) {
  const Layout layout = x.shape.rank() == 2 && shape.rank() != 2 ? Layout::channels_first : x.layout;
  return {layout, shape.c(), shape.spatial()};
}

class CpuElementwise final : public Elementwise {
 public:
  void activate(Activation kind, float slope, const Tensor& x, const Tensor& y, Samples s) const override {
    const float* in = x.as<float>();
    float* out = y.as<float>();
    switch (kind) {
      case Activation::relu:
        return for_values(x, s, false, out, [=](std::int64_t i) { return in[i] < 0 ? 0 : in[i]; });
      case Activation::leaky_relu:
        return for_values(x, s, false, out, [=](std::int64_t i) { return in[i] < 0 ? slope * in[i] : in[i]; });
      case Activation::sigmoid:
        for_values(x, s, false, out, [=](std::int64_t i) { return 1 / (1 + std::exp(-in[i])); });
        return clear_padding(y, s);
      case Activation::tanh:
        return for_values(x, s, false, out, [=](std::int64_t i) { return std::tanh(in[i]); });
    }
  }

  void activate_backward(Activation kind, float slope, const Tensor& y, const Tensor& dy, const Tensor& dx, Samples s,
                         bool accumulate) const override {
    const float *out = y.as<float>(), *grad = dy.as<float>();
    float* to = dx.as<float>();
    switch (kind) {
      case Activation::relu:
        return for_values(y, s, accumulate, to, [=](std::int64_t i) { return out[i] > 0 ? grad[i] : 0; });
      case Activation::leaky_relu:
        return for_values(y, s, accumulate, to, [=](std::int64_t i) { return out[i] > 0 ? grad[i] : slope * grad[i]; });
      case Activation::sigmoid:
        return for_values(y, s, accumulate, to, [=](std::int64_t i) { return grad[i] * (out[i] * (1 - out[i])); });
      case Activation::tanh:
        return for_values(y, s, accumulate, to, [=](std::int64_t i) { return grad[i] * (1 - out[i] * out[i]); });
    }
  }

  void add(const Tensor& a, const Tensor& b, const Tensor& y, Samples s) const override {
    const float *left = a.as<float>(), *right = b.as<float>();
    for_values(a, s, false, y.as<float>(), [=](std::int64_t i) { return left[i] + right[i]; });
  }

  void copy(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const override {
    const float* in = x.as<float>();
    for_values(x, s, accumulate, y.as<float>(), [=](std::int64_t i) { return in[i]; });
  }

  void dropout(const Tensor& x, const Tensor& y, Samples s, float p, std::uint64_t seed, std::uint64_t step,
               std::uint64_t layer_key, const std::int64_t* sample_ids, bool accumulate) const override {
    const Panels panels(x);
    const float scale = 1 / (1 - p);
    for (std::int64_t n = s.begin; n < s.end; ++n) {
      const std::uint64_t id = static_cast<std::uint64_t>(sample_ids[n]);
      constexpr std::uint64_t kSpread = 0x9E3779B97F4A7C15;  // so that neighbours' ids differ in every bit of the key
      Random random(seed, Purpose::dropout, step, layer_key ^ ((id + 1) * kSpread));
      const float* in = x.sample(n);
      float* out = y.sample(n);
      for (std::int64_t c = 0; c < panels.channels; ++c) {
        for (std::int64_t i = 0; i < panels.positions; ++i) {
          const std::int64_t at = panels.offset(c, i);
          const float value = random.uniform() < p ? 0 : in[at] * scale;
          out[at] = accumulate ? out[at] + value : value;
        }
      }
    }
  }

  void global_average(const Tensor& x, const Tensor& y, Samples s) const override {
    const Panels panels(x);
    for (std::int64_t n = s.begin; n < s.end; ++n) {
      for (std::int64_t c = 0; c < panels.channels; ++c) {
        double sum = 0;
        for (std::int64_t i = 0; i < panels.positions; ++i) sum += x.sample(n)[panels.offset(c, i)];
        y.sample(n)[c] = static_cast<float>(sum / static_cast<double>(panels.positions));
      }
    }
  }

  void global_average_backward(const Tensor& dy, const Tensor& dx, Samples s, bool accumulate) const override {
    const Panels panels(dx);
    const float share = 1 / static_cast<float>(panels.positions);
    for (std::int64_t n = s.begin; n < s.end; ++n) {
      for (std::int64_t c = 0; c < panels.channels; ++c) {
        const float value = dy.sample(n)[c] * share;
        for (std::int64_t i = 0; i < panels.positions; ++i) {
          float& to = dx.sample(n)[panels.offset(c, i)];
          to = accumulate ? to + value : value;
        }
      }
    }
  }

  void reorder(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const override {
    const Shape& shape = x.shape.rank() >= y.shape.rank() ? x.shape : y.shape;
    const Panels from = panels_as(x, shape), to = panels_as(y, shape);
    for (std::int64_t n = s.begin; n < s.end; ++n) {
      const float* in = x.sample(n);
      float* out = y.sample(n);
      for (std::int64_t c = 0; c < to.channels; ++c) {
        for (std::int64_t i = 0; i < to.positions; ++i) {
          const float value = in[from.offset(c, i)];
          float& target = out[to.offset(c, i)];
          target = accumulate ? target + value : value;
        }
      }
    }
    if (!accumulate) clear_padding(y, s);
  }
};

}  // namespace

std::unique_ptr<Elementwise> make_elementwise() {
  return std::make_unique<CpuElementwise>();
}

}  // namespace syncbn::ops::cpu
