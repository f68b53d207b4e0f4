#include "ops/cpu/elementwise_sweeps.hpp"

#include "ops/cpu/vector_targets.hpp"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/elementwise_sweeps.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include "ops/cpu/runs-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace syncbn::ops::cpu::HWY_NAMESPACE {

using F32 = Vec<float>;
constexpr Tag<float> kF32;

/// Calls body(io, place) for consecutive vectors.
template <class Body>
HWY_INLINE void for_vectors(std::int64_t count, Body body) {
  constexpr std::int64_t n = kLanes<float>;
  std::int64_t i = 0;
  for (; i + n <= count; i += n) body(Whole<float>(), i);
  if (i < count) body(Part<float>(count - i), i);
}

HWY_INLINE F32 keep_nan(F32 x, F32 result) {
  return hn::IfThenElse(hn::IsNaN(x), x, result);
}

HWY_INLINE F32 sigmoid(F32 x) {
  // exp of a negative number neither overflows nor loses the small results.
  const auto one = hn::Set(kF32, 1.0f);
  const auto e = hn::Exp(kF32, hn::Neg(hn::Abs(x)));
  const auto r = hn::Div(one, hn::Add(one, e));
  return keep_nan(x, hn::IfThenElse(hn::Lt(x, hn::Zero(kF32)), hn::Mul(e, r), r));
}

void activate(const ActivationSweep& s) {
  const float* x = s.x;
  float* y = s.y;
  const auto zero = hn::Zero(kF32), slope = hn::Set(kF32, s.slope);
  const auto map = [&](auto f) HWY_ATTR {
    for_vectors(s.count, [&](const auto& io, std::int64_t i) HWY_ATTR { io.store(f(io.load(x + i)), y + i); });
  };
  switch (s.kind) {
    case Activation::relu:
      return map([&](F32 v) HWY_ATTR { return hn::IfThenZeroElse(hn::Lt(v, zero), v); });
    case Activation::leaky_relu:
      return map([&](F32 v) HWY_ATTR { return hn::IfThenElse(hn::Lt(v, zero), hn::Mul(slope, v), v); });
    case Activation::sigmoid:
      return map([&](F32 v) HWY_ATTR { return sigmoid(v); });
    case Activation::tanh:
      return map([&](F32 v) HWY_ATTR { return keep_nan(v, hn::Tanh(kF32, v)); });
  }
}

void activate_backward(const ActivationBackwardSweep& s) {
  const float *y = s.y, *dy = s.dy;
  float* dx = s.dx;
  const bool accumulate = s.accumulate;
  const auto zero = hn::Zero(kF32), one = hn::Set(kF32, 1.0f), slope = hn::Set(kF32, s.slope);
  const auto map = [&](auto f) HWY_ATTR {
    for_vectors(s.count, [&](const auto& io, std::int64_t i) HWY_ATTR {
      const auto g = f(io.load(y + i), io.load(dy + i));
      io.store(accumulate ? hn::Add(io.load(dx + i), g) : g, dx + i);
    });
  };
  switch (s.kind) {
    case Activation::relu:
      return map([&](F32 v, F32 g) HWY_ATTR { return masked<float>(hn::Gt(v, zero), g); });
    case Activation::leaky_relu:
      return map([&](F32 v, F32 g) HWY_ATTR { return hn::IfThenElse(hn::Gt(v, zero), g, hn::Mul(slope, g)); });
    case Activation::sigmoid:
      return map([&](F32 v, F32 g) HWY_ATTR { return hn::Mul(g, hn::Mul(v, hn::Sub(one, v))); });
    case Activation::tanh:
      return map([&](F32 v, F32 g) HWY_ATTR { return hn::Mul(g, hn::NegMulAdd(v, v, one)); });
  }
}

void add_arrays(const float* a, const float* b, float* y, std::int64_t count) {
  for_vectors(count, [&](const auto& io, std::int64_t i)
                         HWY_ATTR { io.store(hn::Add(io.load(a + i), io.load(b + i)), y + i); });
}

bool any_nan(const float* x, std::int64_t count) {
  auto sum = hn::Zero(kF32);  // NaN once one has been met
  for_vectors(count, [&](const auto& io, std::int64_t i) HWY_ATTR {
    const auto v = io.load(x + i);
    sum = hn::Add(sum, hn::IfThenElseZero(hn::IsNaN(v), v));
  });
  return !hn::AllFalse(kF32, hn::IsNaN(sum));
}

}  // namespace syncbn::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace syncbn::ops::cpu {

HWY_EXPORT(activate);
HWY_EXPORT(activate_backward);
HWY_EXPORT(add_arrays);
HWY_EXPORT(any_nan);

void run(const ActivationSweep& s) {
  HWY_DYNAMIC_DISPATCH(activate)(s);
}
void run(const ActivationBackwardSweep& s) {
  HWY_DYNAMIC_DISPATCH(activate_backward)(s);
}
void add(const float* a, const float* b, float* y, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(add_arrays)(a, b, y, count);
}

bool contains_nan(const float* x, std::int64_t count) {
  return HWY_DYNAMIC_DISPATCH(any_nan)(x, count);
}

}  // namespace syncbn::ops::cpu
#endif
