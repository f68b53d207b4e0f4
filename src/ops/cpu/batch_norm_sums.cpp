#include "ops/cpu/batch_norm_sweeps.hpp"

#include "ops/cpu/vector_targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/batch_norm_sums.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/sums-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace syncbn::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
void sums(const SumsSweep<T>& s) {
  struct Channels {
    Wide<T> exact_pivot;
    Vec<T> pivot;
  };
  for_each_run<T, false>(s.extent, 0, [&](const Run& run, auto way) SYNCBN_INLINED {
    constexpr Way kWay = decltype(way)::value;
    const T* x = s.x;
    sum_along<T, kWay>(
        run,
        [&](std::int64_t lane) SYNCBN_INLINED {
          return Channels{load_wide_channels<T, kWay>(s.pivot, run, lane),
                          load_narrow_channels<T, kWay>(s.pivot, run, lane)};
        },
        [&](std::int64_t lane, const Channels&)
            SYNCBN_INLINED { return PairOfSums<T, kWay, false>(s.sum, s.sum_sq, run, lane, Wide<T>()); },
        [&](const auto& io, std::int64_t at, std::int64_t, const Channels& c, Vec<T>& a, Vec<T>& b) SYNCBN_INLINED {
          const auto d = io.clear_rest(hn::Sub(io.load(x + at), c.pivot));
          a = hn::Add(a, d);
          b = hn::MulAdd(d, d, b);
        },
        [&](const auto& io, std::int64_t at, std::int64_t, const Channels& c, auto& sums) SYNCBN_INLINED {
          auto d = Wide<T>::promote(io.load(x + at));
          d.subtract(c.exact_pivot);
          sums.add_one(d, d, d);
        });
  });
}

template <FusedRelu kRelu, class T>
void backward_sums(const BackwardSumsSweep<T>& s) {
  struct Channels {
    Wide<T> exact_center;
    Vec<T> center, scale, shift;
  };
  for_each_run<T, false>(s.extent, s.mask_bytes, [&](const Run& run, auto way) SYNCBN_INLINED {
    constexpr Way kWay = decltype(way)::value;
    const T *x = s.x, *dy = s.dy;
    const std::uint8_t* bits = s.mask;
    sum_along<T, kWay>(
        run,
        [&](std::int64_t lane) SYNCBN_INLINED {
          return Channels{load_wide_channels<T, kWay>(s.center, run, lane),
                          load_narrow_channels<T, kWay>(s.center, run, lane),
                          load_channels<T, kWay>(s.scale, run, lane), load_channels<T, kWay>(s.shift, run, lane)};
        },
        [&](std::int64_t lane, const Channels& c) SYNCBN_INLINED {
          auto error = Wide<T>::promote(c.center);  // rounding error of the center
          error.subtract(c.exact_center);
          return PairOfSums<T, kWay, true>(s.sum_dy, s.sum_dy_xc, run, lane, error);
        },
        [&](const auto& io, std::int64_t at, std::int64_t mask, const Channels& c, Vec<T>& a, Vec<T>& b)
            SYNCBN_INLINED {
              const auto xc = hn::Sub(io.load(x + at), c.center);
              const auto g = gate<kRelu, T>(io.load(dy + at), xc, c.scale, c.shift, bits + mask);
              a = hn::Add(a, g);
              b = hn::MulAdd(g, xc, b);
            },
        [&](const auto& io, std::int64_t at, std::int64_t mask, const Channels& c, auto& sums) SYNCBN_INLINED {
          const auto value = io.load(x + at);
          const auto g = gate<kRelu, T>(io.load(dy + at), hn::Sub(value, c.center), c.scale, c.shift, bits + mask);
          auto xc = Wide<T>::promote(value);
          xc.subtract(c.exact_center);
          const auto wide = Wide<T>::promote(g);
          sums.add_one(wide, wide, xc);
        });
  });
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

// Dynamic dispatch needs functions, not templates.
void sums_f32(const SumsSweep<float>& s) {
  sums(s);
}
void sums_f64(const SumsSweep<double>& s) {
  sums(s);
}
void backward_sums_f32(const BackwardSumsSweep<float>& s) {
  any_backward_sums(s);
}
void backward_sums_f64(const BackwardSumsSweep<double>& s) {
  any_backward_sums(s);
}

}  // namespace syncbn::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::ops::cpu {

HWY_EXPORT(sums_f32);
HWY_EXPORT(sums_f64);
HWY_EXPORT(backward_sums_f32);
HWY_EXPORT(backward_sums_f64);

void run(const SumsSweep<float>& s) {
  HWY_DYNAMIC_DISPATCH(sums_f32)(s);
}
void run(const SumsSweep<double>& s) {
  HWY_DYNAMIC_DISPATCH(sums_f64)(s);
}
void run(const BackwardSumsSweep<float>& s) {
  HWY_DYNAMIC_DISPATCH(backward_sums_f32)(s);
}
void run(const BackwardSumsSweep<double>& s) {
  HWY_DYNAMIC_DISPATCH(backward_sums_f64)(s);
}

}  // namespace syncbn::ops::cpu
#endif
