#include "ops/cpu/batch_norm_sweeps.hpp"

#include "ops/cpu/vector_targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/batch_norm_maps.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/runs-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace syncbn::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <FusedRelu kRelu, bool kAdd, class T>
void apply(const ApplySweep<T>& s) {
  struct Channels {
    Vec<T> center, scale, shift;
  };
  for_each_run<T, true>(s.extent, s.mask_bytes, [&](const Run& run, auto way) SYNCBN_INLINED {
    constexpr Way kWay = decltype(way)::value;
    // Local copies, since the compiler must assume that stores change what `s` refers to.
    const T *x = s.x, *add = s.add;
    T* y = s.y;
    sweep<T, kWay>(
        run, s.mask,
        [&](std::int64_t lane) SYNCBN_INLINED {
          return Channels{load_channels<T, kWay>(s.center, run, lane), load_channels<T, kWay>(s.scale, run, lane),
                          load_channels<T, kWay>(s.shift, run, lane)};
        },
        [&](const auto& io, std::int64_t at, std::int64_t, const Channels& c) SYNCBN_INLINED {
          const auto zero = hn::Zero(Tag<T>());
          auto z = hn::MulAdd(hn::Sub(io.load(x + at), c.center), c.scale, c.shift);
          if constexpr (kAdd) z = hn::Add(z, io.load(add + at));
          // Written so that NaN stays NaN.
          io.store(kRelu == FusedRelu::none ? z : hn::IfThenZeroElse(hn::Lt(z, zero), z), y + at);
          if constexpr (kRelu == FusedRelu::bits) return bits_of<T>(hn::Gt(z, zero));
        });
  });
}

/// kOnlyDx: dx is assigned and is the only output.
template <FusedRelu kRelu, bool kOnlyDx, class T>
void backward(const BackwardSweep<T>& s) {
  struct Channels {
    Vec<T> center, scale, shift, p, q, r;
  };
  for_each_run<T, true>(s.extent, s.mask_bytes, [&](const Run& run, auto way) SYNCBN_INLINED {
    constexpr Way kWay = decltype(way)::value;
    const T *x = s.x, *dy = s.dy;
    T *dx = s.dx, *d_add = s.d_add;
    const std::uint8_t* bits = s.mask;
    const bool accumulate_dx = s.accumulate_dx, accumulate_add = s.accumulate_add;
    sweep<T, kWay>(
        run, nullptr,
        [&](std::int64_t lane) SYNCBN_INLINED {
          const auto load = [&](const T* values) SYNCBN_INLINED { return load_channels<T, kWay>(values, run, lane); };
          return Channels{load(s.center), load(s.scale), load(s.shift), load(s.p), load(s.q), load(s.r)};
        },
        [&](const auto& io, std::int64_t at, std::int64_t mask, const Channels& c) SYNCBN_INLINED {
          const auto xc = hn::Sub(io.load(x + at), c.center);
          const auto g = gate<kRelu, T>(io.load(dy + at), xc, c.scale, c.shift, bits + mask);
          if (kOnlyDx || dx) {
            const auto v = hn::MulAdd(c.p, g, hn::MulAdd(c.q, xc, c.r));
            io.store(!kOnlyDx && accumulate_dx ? hn::Add(io.load(dx + at), v) : v, dx + at);
          }
          if (!kOnlyDx && d_add) io.store(accumulate_add ? hn::Add(io.load(d_add + at), g) : g, d_add + at);
        });
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
void any_backward(const BackwardSweep<T>& s) {
  const bool only_dx = s.dx && !s.d_add && !s.accumulate_dx;
  switch (s.relu) {
    case FusedRelu::none:
      return only_dx ? backward<FusedRelu::none, true>(s) : backward<FusedRelu::none, false>(s);
    case FusedRelu::recompute:
      return only_dx ? backward<FusedRelu::recompute, true>(s) : backward<FusedRelu::recompute, false>(s);
    case FusedRelu::bits:
      return only_dx ? backward<FusedRelu::bits, true>(s) : backward<FusedRelu::bits, false>(s);
  }
}

// Dynamic dispatch needs functions, not templates.
void apply_f32(const ApplySweep<float>& s) {
  any_apply(s);
}
void apply_f64(const ApplySweep<double>& s) {
  any_apply(s);
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

HWY_EXPORT(apply_f32);
HWY_EXPORT(apply_f64);
HWY_EXPORT(backward_f32);
HWY_EXPORT(backward_f64);
HWY_EXPORT(lanes_f32);
HWY_EXPORT(lanes_f64);
HWY_EXPORT(target_bit);

void run(const ApplySweep<float>& s) {
  HWY_DYNAMIC_DISPATCH(apply_f32)(s);
}
void run(const ApplySweep<double>& s) {
  HWY_DYNAMIC_DISPATCH(apply_f64)(s);
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
  constexpr std::int64_t kReadAhead = 8;  // a vector's bits are read from this many bytes
  return vectors * ((lanes + 7) / 8) + kReadAhead;
}

template std::int64_t mask_bytes<float>(const Panels& p);
template std::int64_t mask_bytes<double>(const Panels& p);

std::string vector_target() {
  return hwy::TargetName(HWY_DYNAMIC_DISPATCH(target_bit)());
}

}  // namespace syncbn::ops::cpu
#endif
