// How the vector kernels walk over samples that lie as Panels. Compiled once per instruction set, hence the guard that
// lets it in again for each.
#if defined(SYNCBN_OPS_CPU_RUNS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef SYNCBN_OPS_CPU_RUNS_INL
#undef SYNCBN_OPS_CPU_RUNS_INL
#else
#define SYNCBN_OPS_CPU_RUNS_INL
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "ops/cpu/panels.hpp"

// For lambdas within loops over vectors: what they capture must stay in registers.
#ifndef SYNCBN_INLINED
#define SYNCBN_INLINED HWY_ATTR __attribute__((always_inline))
#endif

HWY_BEFORE_NAMESPACE();
namespace syncbn::ops::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Tag = hn::ScalableTag<T>;
template <class T>
using Vec = hn::Vec<Tag<T>>;

template <class T>
constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(Tag<T>()));
template <class T>
constexpr std::int64_t kMaskBytes = (kLanes<T> + 7) / 8;

/// Vectors of `lanes` values that a sweep goes along: `rows` rows, in each of them `count` vectors, `step` values
/// apart, and perhaps one more of `tail` values. What its lanes are:
/// - down a panel: the same channels in all vectors, of which `channels` exist (the others are padding); one row;
/// - across a wide panel: the panel's channels from the first vector to the last; a row per position;
/// - one channel: positions of that channel; one row.
struct Run {
  std::int64_t at, step, row_step;              ///< of the values, in values
  std::int64_t mask, mask_step, mask_row_step;  ///< of a vector's bits, in bytes
  std::int64_t rows, count, lanes, tail;
  std::int64_t channel, channels;
  bool one_channel;
  std::int64_t block;  ///< vectors that are summed in T before they are promoted to f64
};

/// Visits the runs that make up some samples: visit(run, across).
/// For sums, down the panels: each channel's values are met in the order of samples and positions, however the batch is
/// cut. For maps, whose order does not matter: across wide panels, in memory's order, and later samples first, since
/// the sweep before has left these in cache.
template <class T, bool kMap, class Visit>
HWY_INLINE void for_each_run(const Extent& e, std::int64_t mask_bytes, Visit visit) {
  constexpr std::int64_t n = kLanes<T>, kBlock = 64, kTileBytes = 16384;
  const Panels& p = e.panels;
  const bool planes = p.width == 1;
  // Samples that are a single row of channels are the positions of one wide panel.
  const bool rows = !planes && p.positions == 1;
  const std::int64_t samples = rows ? 1 : e.samples, panels = rows ? 1 : p.count;
  const std::int64_t width = rows ? p.size() : p.width, lane_groups = (width + n - 1) / n;
  const std::int64_t positions = rows ? e.samples : planes ? p.positions / n : p.positions;
  const std::int64_t tail = planes ? p.positions % n : 0;
  const std::int64_t mask_bytes_of_position = rows ? mask_bytes : kMaskBytes<T>;
  const std::int64_t mask_bytes_of_group = rows ? kMaskBytes<T> : (positions + (tail > 0)) * kMaskBytes<T>;
  // Walking down a wide panel lane group by lane group would touch each page once per group: do it in cached tiles.
  const std::int64_t row_bytes = width * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t tile =
      lane_groups == 1 ? std::max<std::int64_t>(1, positions) : std::max<std::int64_t>(8, kTileBytes / row_bytes);
  const std::int64_t tiles = std::max<std::int64_t>(1, (positions + tile - 1) / tile);

  Run run{};
  run.one_channel = planes;
  run.block = rows ? 1 : kBlock;
  run.row_step = width, run.mask_row_step = mask_bytes_of_position;
  for (std::int64_t i = 0; i < samples; ++i) {
    const std::int64_t sample = kMap ? samples - 1 - i : i;
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t begin = (kMap ? tiles - 1 - t : t) * tile, count = std::min(tile, positions - begin);
        run.channel = panel * width;
        run.at = sample * p.size() + panel * p.positions * p.width + begin * width;
        run.mask = sample * mask_bytes + panel * lane_groups * mask_bytes_of_group + begin * mask_bytes_of_position;
        if (kMap && lane_groups > 1) {
          run.rows = count, run.count = width / n, run.lanes = n, run.tail = width % n;
          run.step = n, run.mask_step = mask_bytes_of_group;
          visit(run, std::true_type());
          continue;
        }
        run.rows = 1, run.count = count, run.tail = tail;
        run.step = planes ? n : width, run.mask_step = mask_bytes_of_position;
        for (std::int64_t lane = 0; lane < width; lane += n) {
          run.lanes = planes ? n : std::min(n, width - lane);
          run.channels = planes ? 1 : std::clamp<std::int64_t>(p.channels - run.channel, 0, run.lanes);
          visit(run, std::false_type());
          run.channel += n, run.at += n, run.mask += mask_bytes_of_group;
        }
      }
    }
  }
}

/// How a vector of values is read and written: whole ...
template <class T>
struct Whole {
  HWY_INLINE Vec<T> load(const T* p) const { return hn::LoadU(Tag<T>(), p); }
  HWY_INLINE void store(Vec<T> v, T* p) const { hn::StoreU(v, Tag<T>(), p); }
  HWY_INLINE Vec<T> clear_rest(Vec<T> v) const { return v; }
};

/// ... or only its first lanes.
template <class T>
struct Part {
  hn::Mask<Tag<T>> mask;
  std::int64_t lanes;
  explicit HWY_INLINE Part(std::int64_t count)
      : mask(hn::FirstN(Tag<T>(), static_cast<std::size_t>(count))), lanes(count) {}
#if HWY_TARGET <= HWY_AVX2
  HWY_INLINE Vec<T> load(const T* p) const {
    return hn::MaskedLoad(mask, Tag<T>(), p);
  }
  HWY_INLINE void store(Vec<T> v, T* p) const {
    hn::BlendedStore(v, mask, Tag<T>(), p);
  }
#else  // where masked loads touch the whole vector
  HWY_INLINE Vec<T> load(const T* p) const {
    HWY_ALIGN T buffer[kLanes<T>] = {};
    std::copy_n(p, lanes, buffer);
    return hn::Load(Tag<T>(), buffer);
  }
  HWY_INLINE void store(Vec<T> v, T* p) const {
    HWY_ALIGN T buffer[kLanes<T>];
    hn::Store(v, Tag<T>(), buffer);
    std::copy_n(buffer, lanes, p);
  }
#endif
  HWY_INLINE Vec<T> clear_rest(Vec<T> v) const {
    return hn::IfThenElseZero(mask, v);
  }
};

/// A coefficient per channel. Across a panel it is read for every vector, else it stays the same.
template <class T, bool kAcross>
class PerChannel {
 public:
  HWY_INLINE PerChannel(const T* values, const Run& run) : values_(values + run.channel) {
    if constexpr (kAcross) return;
    if (run.one_channel) {
      fixed_ = hn::Set(Tag<T>(), *values_);
    } else if (run.channels == kLanes<T>) {
      fixed_ = hn::LoadU(Tag<T>(), values_);
    } else {
      fixed_ = Part<T>(run.channels).load(values_);
    }
  }
  /// For the vector `lane` values behind the run's first channel.
  HWY_INLINE Vec<T> at(std::int64_t lane) const {
    if constexpr (kAcross) return hn::LoadU(Tag<T>(), values_ + lane);
    return fixed_;
  }

 private:
  const T* values_;
  Vec<T> fixed_;
};

/// Calls visit(io, step, step of the bits) as it fits the run's vectors; for neighbouring ones the steps are constants.
template <class T, class Visit>
HWY_INLINE void with_steps(const Run& run, Visit visit) {
  using Next = std::integral_constant<std::int64_t, kLanes<T>>;
  using NextBits = std::integral_constant<std::int64_t, kMaskBytes<T>>;
  if (run.lanes != kLanes<T>) {
    visit(Part<T>(run.lanes), run.step, run.mask_step);
  } else if (run.step == Next::value && run.mask_step == NextBits::value) {
    visit(Whole<T>(), Next(), NextBits());
  } else {
    visit(Whole<T>(), run.step, run.mask_step);
  }
}

/// Calls body(io, offset of the vector, offset of its bits, its lane in the run) along a run.
template <class T, class Body>
HWY_INLINE void sweep(const Run& run, Body body) {
  constexpr std::int64_t n = kLanes<T>;
  with_steps<T>(run, [&](const auto& io, auto step, auto mask_step) SYNCBN_INLINED {
    const std::int64_t count = run.count;
    for (std::int64_t row = 0; row < run.rows; ++row) {
      std::int64_t at = run.at + row * run.row_step, mask = run.mask + row * run.mask_row_step, lane = 0;
      for (std::int64_t i = 0; i + 2 <= count; i += 2, at += 2 * step, mask += 2 * mask_step, lane += 2 * n) {
        body(io, at, mask, lane);
        body(io, at + step, mask + mask_step, lane + n);
      }
      if (count % 2 != 0) body(io, at, mask, lane), at += step, mask += mask_step, lane += n;
      if (run.tail > 0) body(Part<T>(run.tail), at, mask, lane);
    }
  });
}

// ---- sums ----

/// The lanes of a Vec<T> in f64.
template <class T>
struct Wide {
  static constexpr std::int64_t kParts = kLanes<T> / kLanes<double>;
  Vec<double> part[kParts];

  HWY_INLINE Wide() {
    for (auto& v : part) v = hn::Zero(Tag<double>());
  }
  static HWY_INLINE Wide all(double value) {
    Wide wide;
    for (auto& v : wide.part) v = hn::Set(Tag<double>(), value);
    return wide;
  }
  explicit HWY_INLINE Wide(const double* values) {
    for (std::int64_t i = 0; i < kParts; ++i) part[i] = hn::LoadU(Tag<double>(), values + i * kLanes<double>);
  }
  HWY_INLINE void store(double* values) const {
    for (std::int64_t i = 0; i < kParts; ++i) hn::StoreU(part[i], Tag<double>(), values + i * kLanes<double>);
  }
  static HWY_INLINE Wide promote(Vec<T> v) {
    Wide wide;
    if constexpr (sizeof(T) == sizeof(double)) {
      wide.part[0] = v;
    } else {
#if HWY_TARGET == HWY_SCALAR
      wide.part[0] = hn::PromoteTo(Tag<double>(), v);
#else
      const hn::Half<Tag<T>> half;
      wide.part[0] = hn::PromoteTo(Tag<double>(), hn::LowerHalf(half, v));
      wide.part[1] = hn::PromoteTo(Tag<double>(), hn::UpperHalf(half, v));
#endif
    }
    return wide;
  }
  HWY_INLINE void add(Vec<T> v) {
    add(promote(v));
  }
  HWY_INLINE void add(const Wide& other) {
    for (std::int64_t i = 0; i < kParts; ++i) part[i] = hn::Add(part[i], other.part[i]);
  }
  HWY_INLINE void subtract(const Wide& other) {
    for (std::int64_t i = 0; i < kParts; ++i) part[i] = hn::Sub(part[i], other.part[i]);
  }
  /// Rounded to T.
  HWY_INLINE Vec<T> narrow() const {
    if constexpr (sizeof(T) == sizeof(double)) {
      return part[0];
    } else {
#if HWY_TARGET == HWY_SCALAR
      return hn::DemoteTo(Tag<T>(), part[0]);
#else
      const hn::Half<Tag<T>> half;
      return hn::Combine(Tag<T>(), hn::DemoteTo(half, part[1]), hn::DemoteTo(half, part[0]));
#endif
    }
  }
  /// += a * b
  HWY_INLINE void add_product(const Wide& a, const Wide& b) {
    for (std::int64_t i = 0; i < kParts; ++i) part[i] = hn::MulAdd(a.part[i], b.part[i], part[i]);
  }
  HWY_INLINE double sum_of_lanes() const {
    auto sum = part[0];
    for (std::int64_t i = 1; i < kParts; ++i) sum = hn::Add(sum, part[i]);
    return hn::GetLane(hn::SumOfLanes(Tag<double>(), sum));
  }
};

/// What is known of a run's channels in f64, one per lane.
template <class T>
HWY_INLINE Wide<T> load_wide_channels(const double* values, const Run& run) {
  if (run.one_channel) return Wide<T>::all(values[run.channel]);
  if (run.channels == kLanes<T>) return Wide<T>(values + run.channel);
  HWY_ALIGN double lanes[kLanes<T>] = {};
  std::copy_n(values + run.channel, run.channels, lanes);
  return Wide<T>(lanes);
}

/// Per-channel sums in f64 while a run adds to them.
template <class T>
class RunningSum : public Wide<T> {
 public:
  HWY_INLINE RunningSum(double* values, const Run& run) : values_(values + run.channel), run_(run) {
    if (!run.one_channel) static_cast<Wide<T>&>(*this) = load_wide_channels<T>(values, run);
  }
  HWY_INLINE void store() const {
    if (run_.one_channel) {
      *values_ += this->sum_of_lanes();
    } else if (run_.channels == kLanes<T>) {
      Wide<T>::store(values_);
    } else {
      HWY_ALIGN double lanes[kLanes<T>];
      Wide<T>::store(lanes);
      std::copy_n(lanes, run_.channels, values_);
    }
  }

 private:
  double* values_;
  const Run& run_;
};

/// Sums term(io, offset, bits, a, b) - two values at each place - along a run and hands them to add(a, b): short blocks
/// in T, four interleaved sums to hide the latency of the addition. Where a block is a single vector, add_one(io,
/// offset, bits) adds its values.
template <class T, class Term, class Add, class AddOne>
HWY_INLINE void sum_along(const Run& run, Term term, Add add, AddOne add_one) {
  with_steps<T>(run, [&](const auto& io, auto step, auto mask_step) SYNCBN_INLINED {
    const auto zero = hn::Zero(Tag<T>());
    std::int64_t at = run.at, mask = run.mask;
    const auto block = [&](std::int64_t count) SYNCBN_INLINED {
      Vec<T> a0 = zero, a1 = zero, a2 = zero, a3 = zero, b0 = zero, b1 = zero, b2 = zero, b3 = zero;
      std::int64_t i = 0;
      for (; i + 4 <= count; i += 4, at += 4 * step, mask += 4 * mask_step) {
        term(io, at, mask, a0, b0);
        term(io, at + step, mask + mask_step, a1, b1);
        term(io, at + 2 * step, mask + 2 * mask_step, a2, b2);
        term(io, at + 3 * step, mask + 3 * mask_step, a3, b3);
      }
      for (; i < count; ++i, at += step, mask += mask_step) term(io, at, mask, a0, b0);
      add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), hn::Add(hn::Add(b0, b1), hn::Add(b2, b3)));
    };
    if (run.block == 1) {
      for (std::int64_t i = 0; i < run.count; ++i, at += step, mask += mask_step) add_one(io, at, mask);
    } else {
      for (std::int64_t i = 0; i < run.count; i += run.block) block(std::min(run.block, run.count - i));
    }
    if (run.tail > 0) {
      auto a = zero, b = zero;
      term(Part<T>(run.tail), at, mask, a, b);
      add(a, b);
    }
  });
}

}  // namespace syncbn::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
