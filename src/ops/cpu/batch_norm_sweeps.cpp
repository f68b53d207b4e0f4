#include "ops/cpu/batch_norm_sweeps.hpp"

#include <algorithm>

// A target that no machine with oneDNN's kernels is limited to.
#define HWY_DISABLED_TARGETS HWY_SSSE3
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/batch_norm_sweeps.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/runs-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace syncbn::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
struct Pair {
  Wide<T> first, second;
  HWY_INLINE Pair() {}  // an implicit constructor would not be compiled for the target
};

/// Values summed in T before they are promoted to f64.
constexpr std::int64_t kBlock = 64;

/// Adds term(io, offset, index) - two values at each place - along a run: four interleaved sums (to hide the latency of
/// the addition) over short blocks in T, blocks in f64.
template <class T, class Term>
HWY_INLINE Pair<T> sum_along(const Run& run, Term term) {
  Pair<T> total;
  if (run.count == 1 && run.lanes == kLanes<T> && run.tail == 0 && !run.one_channel) {
    auto a = hn::Zero(Tag<T>()), b = a;
    term(Whole<T>(), run.offset, run.first_vector, a, b);
    total.first.add(a), total.second.add(b);
    return total;
  }
  const auto add_block = [&](const auto& io, std::int64_t begin, std::int64_t end) HWY_ATTR {
    const auto zero = hn::Zero(Tag<T>());
    Vec<T> a0 = zero, a1 = zero, a2 = zero, a3 = zero, b0 = zero, b1 = zero, b2 = zero, b3 = zero;
    const std::int64_t at = run.offset, step = run.step, index = run.first_vector;
    std::int64_t i = begin;
    for (; i + 4 <= end; i += 4) {
      term(io, at + i * step, index + i, a0, b0);
      term(io, at + (i + 1) * step, index + i + 1, a1, b1);
      term(io, at + (i + 2) * step, index + i + 2, a2, b2);
      term(io, at + (i + 3) * step, index + i + 3, a3, b3);
    }
    for (; i < end; ++i) term(io, at + i * step, index + i, a0, b0);
    total.first.add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)));
    total.second.add(hn::Add(hn::Add(b0, b1), hn::Add(b2, b3)));
  };
  const auto add_blocks = [&](const auto& io) HWY_ATTR {
    for (std::int64_t i = 0; i < run.count; i += kBlock) add_block(io, i, std::min(i + kBlock, run.count));
  };
  if (run.lanes == kLanes<T>) {
    add_blocks(Whole<T>());
  } else {
    add_blocks(Part<T>(run.lanes));
  }
  if (run.tail > 0) add_block(Part<T>(run.tail), run.count, run.count + 1);
  if (run.one_channel) total.first.gather(), total.second.gather();
  return total;
}

template <class T>
void sums(const SumsSweep<T>& s) {
  const std::int64_t stride = s.extent.panels.size();
  for_each_run<T>(s.extent, [&](const Run& run) HWY_ATTR {
    const Origin<T> pivot(s.pivot, run);
    const auto values = Wide<T>::all(static_cast<double>(run.values_per_channel()));
    auto sum = load_wide_channels<T>(s.sum, run), sum_sq = load_wide_channels<T>(s.sum_sq, run);
    for (std::int64_t n = run.sample; n < run.sample + run.samples; ++n) {
      const T* x = s.x + n * stride;
      auto part = sum_along<T>(run, [&](const auto& io, std::int64_t at, std::int64_t, Vec<T>& a, Vec<T>& b) HWY_ATTR {
        const auto d = io.clear_rest(hn::Sub(io.load(x + at), pivot.rounded));
        a = hn::Add(a, d);
        b = hn::MulAdd(d, d, b);
      });
      // x - pivot = d + e:  sum = sum(d) + M e,  sum_sq = sum(d^2) + e (sum(d) + sum)
      Wide<T> exact = part.first;
      exact.add_product(values, pivot.error);
      part.first.add(exact);
      part.second.add_product(pivot.error, part.first);
      sum.add(exact);
      sum_sq.add(part.second);
    }
    store_wide_channels(sum, s.sum, run);
    store_wide_channels(sum_sq, s.sum_sq, run);
  });
}

/// The gradient behind the ReLU.
template <FusedRelu kRelu, class T>
HWY_INLINE Vec<T> gate(Vec<T> dy, Vec<T> xc, Vec<T> scale, Vec<T> shift, const std::uint8_t* mask, std::int64_t index) {
  const Tag<T> d;
  if constexpr (kRelu == FusedRelu::recompute) {
    return hn::IfThenElseZero(hn::Gt(hn::MulAdd(xc, scale, shift), hn::Zero(d)), dy);
  } else if constexpr (kRelu == FusedRelu::bits) {
    return hn::IfThenElseZero(hn::LoadMaskBits(d, mask + index * kMaskBytes<T>), dy);
  } else {
    return dy;
  }
}

template <FusedRelu kRelu, class T>
void backward_sums(const BackwardSumsSweep<T>& s) {
  const std::int64_t stride = s.extent.panels.size();
  const std::int64_t mask_stride = mask_bytes<T>(s.extent.panels);
  for_each_run<T>(s.extent, [&](const Run& run) HWY_ATTR {
    const Origin<T> center(s.center, run);
    const auto scale = load_channels(s.scale, run), shift = load_channels(s.shift, run);
    auto sum_dy = load_wide_channels<T>(s.sum_dy, run), sum_dy_xc = load_wide_channels<T>(s.sum_dy_xc, run);
    for (std::int64_t n = run.sample; n < run.sample + run.samples; ++n) {
      const T *x = s.x + n * stride, *dy = s.dy + n * stride;
      const std::uint8_t* mask = s.mask + n * mask_stride;
      auto part =
          sum_along<T>(run, [&](const auto& io, std::int64_t at, std::int64_t index, Vec<T>& a, Vec<T>& b) HWY_ATTR {
            const auto xc = hn::Sub(io.load(x + at), center.rounded);
            const auto g = gate<kRelu, T>(io.load(dy + at), xc, scale, shift, mask, index);
            a = hn::Add(a, g);
            b = hn::MulAdd(g, xc, b);
          });
      part.second.add_product(center.error, part.first);
      sum_dy.add(part.first);
      sum_dy_xc.add(part.second);
    }
    store_wide_channels(sum_dy, s.sum_dy, run);
    store_wide_channels(sum_dy_xc, s.sum_dy_xc, run);
  });
}

// ---- maps ----

template <FusedRelu kRelu, bool kAdd, class T>
void apply(const ApplySweep<T>& s) {
  const std::int64_t stride = s.extent.panels.size();
  const std::int64_t mask_stride = mask_bytes<T>(s.extent.panels);
  for_each_run<T>(s.extent, [&](const Run& run) HWY_ATTR {
    const auto center = load_channels(s.center, run), scale = load_channels(s.scale, run),
               shift = load_channels(s.shift, run);
    for (std::int64_t n = run.sample; n < run.sample + run.samples; ++n) {
      const T *x = s.x + n * stride, *add = s.add + n * stride;
      T* y = s.y + n * stride;
      std::uint8_t* mask = s.mask + n * mask_stride;
      sweep<T>(run, [&](const auto& io, std::int64_t at, std::int64_t index) HWY_ATTR {
        const Tag<T> d;
        auto z = hn::MulAdd(hn::Sub(io.load(x + at), center), scale, shift);
        if constexpr (kAdd) z = hn::Add(z, io.load(add + at));
        if constexpr (kRelu == FusedRelu::bits) {
          hn::StoreMaskBits(d, hn::Gt(z, hn::Zero(d)), mask + index * kMaskBytes<T>);
        }
        // Written so that NaN stays NaN.
        if constexpr (kRelu != FusedRelu::none) z = hn::IfThenZeroElse(hn::Lt(z, hn::Zero(d)), z);
        io.store(z, y + at);
      });
    }
  });
}

template <FusedRelu kRelu, class T>
void backward(const BackwardSweep<T>& s) {
  const std::int64_t stride = s.extent.panels.size();
  const std::int64_t mask_stride = mask_bytes<T>(s.extent.panels);
  for_each_run<T>(s.extent, [&](const Run& run) HWY_ATTR {
    const auto center = load_channels(s.center, run), scale = load_channels(s.scale, run),
               shift = load_channels(s.shift, run);
    const auto p = load_channels(s.p, run), q = load_channels(s.q, run), r = load_channels(s.r, run);
    for (std::int64_t n = run.sample; n < run.sample + run.samples; ++n) {
      const T *x = s.x + n * stride, *dy = s.dy + n * stride;
      T *dx = s.dx + n * stride, *d_add = s.d_add + n * stride;
      const std::uint8_t* mask = s.mask + n * mask_stride;
      // Local copies, since the compiler must assume that stores change what `s` refers to.
      const bool want_dx = s.dx, want_add = s.d_add, accumulate_dx = s.accumulate_dx, accumulate_add = s.accumulate_add;
      sweep<T>(run, [&](const auto& io, std::int64_t at, std::int64_t index) HWY_ATTR {
        const auto xc = hn::Sub(io.load(x + at), center);
        const auto g = gate<kRelu, T>(io.load(dy + at), xc, scale, shift, mask, index);
        if (want_dx) {
          const auto v = hn::MulAdd(p, g, hn::MulAdd(q, xc, r));
          io.store(accumulate_dx ? hn::Add(io.load(dx + at), v) : v, dx + at);
        }
        if (want_add) io.store(accumulate_add ? hn::Add(io.load(d_add + at), g) : g, d_add + at);
      });
    }
  });
}

template <class T>
void any_apply(const ApplySweep<T>& s) {
  switch (s.relu) {
    case FusedRelu::none:
      return s.add ? apply<FusedRelu::none, true>(s) : apply<FusedRelu::none, false>(s);
    case FusedRelu::recompute:
      return s.add ? apply<FusedRelu::recompute, true>(s) : apply<FusedRelu::recompute, false>(s);
    case FusedRelu::bits:
      return s.add ? apply<FusedRelu::bits, true>(s) : apply<FusedRelu::bits, false>(s);
  }
}

template <class T>
void any_backward_sums(const BackwardSumsSweep<T>& s) {
  switch (s.relu) {
    case FusedRelu::none:
      return backward_sums<FusedRelu::none>(s);
    case FusedRelu::recompute:
      return backward_sums<FusedRelu::recompute>(s);
    case FusedRelu::bits:
      return backward_sums<FusedRelu::bits>(s);
  }
}

template <class T>
void any_backward(const BackwardSweep<T>& s) {
  switch (s.relu) {
    case FusedRelu::none:
      return backward<FusedRelu::none>(s);
    case FusedRelu::recompute:
      return backward<FusedRelu::recompute>(s);
    case FusedRelu::bits:
      return backward<FusedRelu::bits>(s);
  }
}

// Dynamic dispatch wants functions, not templates.
void sums_f32(const SumsSweep<float>& s) {
  sums(s);
}
void sums_f64(const SumsSweep<double>& s) {
  sums(s);
}
void apply_f32(const ApplySweep<float>& s) {
  any_apply(s);
}
void apply_f64(const ApplySweep<double>& s) {
  any_apply(s);
}
void backward_sums_f32(const BackwardSumsSweep<float>& s) {
  any_backward_sums(s);
}
void backward_sums_f64(const BackwardSumsSweep<double>& s) {
  any_backward_sums(s);
}
void backward_f32(const BackwardSweep<float>& s) {
  any_backward(s);
}
void backward_f64(const BackwardSweep<double>& s) {
  any_backward(s);
}
std::int64_t lanes_f32() {
  return kLanes<float>;
}
std::int64_t lanes_f64() {
  return kLanes<double>;
}
std::int64_t target_bit() {
  return HWY_TARGET;
}

}  // namespace syncbn::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::ops::cpu {

HWY_EXPORT(sums_f32);
HWY_EXPORT(sums_f64);
HWY_EXPORT(apply_f32);
HWY_EXPORT(apply_f64);
HWY_EXPORT(backward_sums_f32);
HWY_EXPORT(backward_sums_f64);
HWY_EXPORT(backward_f32);
HWY_EXPORT(backward_f64);
HWY_EXPORT(lanes_f32);
HWY_EXPORT(lanes_f64);
HWY_EXPORT(target_bit);

void run(const SumsSweep<float>& s) {
  HWY_DYNAMIC_DISPATCH(sums_f32)(s);
}
void run(const SumsSweep<double>& s) {
  HWY_DYNAMIC_DISPATCH(sums_f64)(s);
}
void run(const ApplySweep<float>& s) {
  HWY_DYNAMIC_DISPATCH(apply_f32)(s);
}
void run(const ApplySweep<double>& s) {
  HWY_DYNAMIC_DISPATCH(apply_f64)(s);
}
void run(const BackwardSumsSweep<float>& s) {
  HWY_DYNAMIC_DISPATCH(backward_sums_f32)(s);
}
void run(const BackwardSumsSweep<double>& s) {
  HWY_DYNAMIC_DISPATCH(backward_sums_f64)(s);
}
void run(const BackwardSweep<float>& s) {
  HWY_DYNAMIC_DISPATCH(backward_f32)(s);
}
void run(const BackwardSweep<double>& s) {
  HWY_DYNAMIC_DISPATCH(backward_f64)(s);
}

template <class T>
std::int64_t mask_bytes(const Panels& p) {
  const std::int64_t lanes =
      sizeof(T) == sizeof(float) ? HWY_DYNAMIC_DISPATCH(lanes_f32)() : HWY_DYNAMIC_DISPATCH(lanes_f64)();
  const std::int64_t vectors = p.width == 1 ? p.count * ((p.positions + lanes - 1) / lanes)
                                            : p.count * ((p.width + lanes - 1) / lanes) * p.positions;
  constexpr std::int64_t kReadAhead = 8;  // a vector's bits are read from as many bytes
  return vectors * ((lanes + 7) / 8) + kReadAhead;
}

template std::int64_t mask_bytes<float>(const Panels& p);
template std::int64_t mask_bytes<double>(const Panels& p);

std::string vector_target() {
  return hwy::TargetName(HWY_DYNAMIC_DISPATCH(target_bit)());
}

}  // namespace syncbn::ops::cpu
#endif
