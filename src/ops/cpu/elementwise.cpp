#include <algorithm>
#include <vector>

#include "ops/cpu/batch_norm_sweeps.hpp"
#include "ops/cpu/elementwise_sweeps.hpp"
#include "ops/cpu/factories.hpp"
#include "ops/dropout_key.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn::ops::cpu {
namespace {

std::int64_t values_in(const Tensor& t, Samples s) {
  return s.count() * t.sample_stride();
}

/// Calls visit(first, step), the places of a channel's positions, for each channel that is not padding.
template <class Visit>
void for_each_channel(const Panels& p, Visit visit) {
  for (std::int64_t c = 0; c < p.channels; ++c) visit(c, p.offset(c, 0), p.width);
}

void clear_padding(const Tensor& y, Samples s) {
  const Panels p(y);
  for (std::int64_t n = s.begin; n < s.end; ++n) clear_padding(p, y.sample(n));
}

/// The samples of x seen with the channels and positions of `shape`. [N, F] is a plain row in any layout.
Panels panels_as(const Tensor& x, const Shape& shape) {
  const Layout layout = x.shape.rank() == 2 && shape.rank() != 2 ? Layout::channels_first : x.layout;
  return {layout, shape.c(), shape.spatial()};
}

/// Copies samples between tensors of the same shape and layout.
void copy_samples(const Tensor& x, const Tensor& y, Samples s, bool accumulate) {
  if (accumulate)
    add(y.sample(s.begin), x.sample(s.begin), y.sample(s.begin), values_in(x, s));
  else
    std::copy_n(x.sample(s.begin), values_in(x, s), y.sample(s.begin));
}

class CpuElementwise final : public Elementwise {
 public:
  void activate(Activation kind, float slope, const Tensor& x, const Tensor& y, Samples s) const override {
    run(ActivationSweep{kind, slope, x.sample(s.begin), y.sample(s.begin), values_in(x, s)});
    if (kind == Activation::sigmoid) clear_padding(y, s);  // the only one with f(0) != 0
  }

  void activate_backward(Activation kind, float slope, const Tensor& y, const Tensor& dy, const Tensor& dx, Samples s,
                         bool accumulate) const override {
    run(ActivationBackwardSweep{kind, slope, y.sample(s.begin), dy.sample(s.begin), dx.sample(s.begin), values_in(y, s),
                                accumulate});
  }

  void add(const Tensor& a, const Tensor& b, const Tensor& y, Samples s) const override {
    cpu::add(a.sample(s.begin), b.sample(s.begin), y.sample(s.begin), values_in(a, s));
  }

  void copy(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const override {
    copy_samples(x, y, s, accumulate);
  }

  void dropout(const Tensor& x, const Tensor& y, Samples s, float p, std::uint64_t seed, std::uint64_t step,
               std::uint64_t layer_key, const std::int64_t* sample_ids, bool accumulate) const override {
    const Panels panels(x);
    const float scale = 1 / (1 - p);
    for (std::int64_t n = s.begin; n < s.end; ++n) {
      Random random(seed, Purpose::dropout, step, dropout_key(layer_key, sample_ids[n]));
      const float* in = x.sample(n);
      float* out = y.sample(n);
      for_each_channel(panels, [&](std::int64_t, std::int64_t at, std::int64_t stride) {
        for (std::int64_t i = 0; i < panels.positions; ++i, at += stride) {
          const float value = random.uniform() < p ? 0 : in[at] * scale;
          out[at] = accumulate ? out[at] + value : value;
        }
      });
    }
  }

  void global_average(const Tensor& x, const Tensor& y, Samples s) const override {
    const Panels panels(x);
    const auto channels = static_cast<std::size_t>(panels.channels);
    const std::vector<double> zero(channels);
    std::vector<double> sum(channels), sum_sq(channels);
    for (std::int64_t n = s.begin; n < s.end; ++n) {
      std::fill(sum.begin(), sum.end(), 0.0);
      run(SumsSweep<float>{Extent{panels, 1}, x.sample(n), zero.data(), sum.data(), sum_sq.data()});
      for (std::size_t c = 0; c < channels; ++c) {
        y.sample(n)[c] = static_cast<float>(sum[c] / static_cast<double>(panels.positions));
      }
    }
  }

  void global_average_backward(const Tensor& dy, const Tensor& dx, Samples s, bool accumulate) const override {
    const Panels p(dx);
    const float share = 1 / static_cast<float>(p.positions);
    for (std::int64_t n = s.begin; n < s.end; ++n) {
      for (std::int64_t first = 0; first < p.channels; first += p.width) {
        const std::int64_t lanes = std::min(p.width, p.channels - first);
        const float* from = dy.sample(n) + first;
        float* to = dx.sample(n) + p.offset(first, 0);
        for (std::int64_t i = 0; i < p.positions; ++i, to += p.width) {
          for (std::int64_t k = 0; k < lanes; ++k) to[k] = from[k] * share + (accumulate ? to[k] : 0);
        }
      }
    }
    if (!accumulate) clear_padding(dx, s);
  }

  void look_up(const std::uint8_t* bytes, const float* values, const Tensor& y, Samples s) const override {
    const Panels to(y);
    for (std::int64_t n = s.begin; n < s.end; ++n) {
      float* out = y.sample(n);
      for_each_channel(to, [&](std::int64_t c, std::int64_t at, std::int64_t stride) {
        const std::uint8_t* from = bytes + (n * to.channels + c) * to.positions;
        const float* value = values + 256 * c;
        for (std::int64_t i = 0; i < to.positions; ++i, at += stride) out[at] = value[from[i]];
      });
    }
    clear_padding(y, s);
  }

  void reorder(const Tensor& x, const Tensor& y, Samples s, bool accumulate) const override {
    cpu::reorder(x, y, s, accumulate);
  }
};

}  // namespace

void reorder(const Tensor& x, const Tensor& y, Samples s, bool accumulate) {
  if (x.layout == y.layout && x.shape == y.shape) return copy_samples(x, y, s, accumulate);
  const Shape& shape = x.shape.rank() >= y.shape.rank() ? x.shape : y.shape;
  const Panels from = panels_as(x, shape), to = panels_as(y, shape);
  for (std::int64_t n = s.begin; n < s.end; ++n) {
    const float* in = x.sample(n);
    float* out = y.sample(n);
    for_each_channel(to, [&](std::int64_t c, std::int64_t at, std::int64_t stride) {
      const float* value = in + from.offset(c, 0);
      for (std::int64_t i = 0; i < to.positions; ++i, at += stride, value += from.width) {
        out[at] = accumulate ? out[at] + *value : *value;
      }
    });
  }
  if (!accumulate) clear_padding(y, s);
}

std::unique_ptr<Elementwise> make_elementwise() {
  return std::make_unique<CpuElementwise>();
}

}  // namespace syncbn::ops::cpu
