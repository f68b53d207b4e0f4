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

#include "ops/cpu/panels.hpp"

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

/// What one set of per-channel coefficients, one per lane, is good for: in each of `samples` samples from `sample` on,
/// `count` vectors of `lanes` values, `step` apart, and perhaps one more of `tail` values. Either the lanes are
/// channels (of which `channels` exist; the others are padding), or all are positions of one channel.
struct Run {
  std::int64_t sample, samples;
  std::int64_t offset, step, count, lanes, tail;
  std::int64_t channel, channels;
  bool one_channel;
  std::int64_t first_vector;  ///< number of the first vector, where every vector of a sample has one of its own

  std::int64_t values_per_channel() const { return one_channel ? count * lanes + tail : count; }
};

/// Runs over panels of width 1: vectors along the positions.
template <class T, class Visit>
HWY_INLINE void for_each_plane(const Extent& e, Visit visit) {
  constexpr std::int64_t n = kLanes<T>;
  const std::int64_t positions = e.panels.positions, vectors = (positions + n - 1) / n;
  for (std::int64_t c = 0; c < e.panels.count; ++c) {
    visit(Run{0, e.samples, c * positions, n, positions / n, n, positions % n, c, 1, true, c * vectors});
  }
}

/// The runs across one panel of some samples, over positions [begin, end).
template <class T, class Visit>
HWY_INLINE void for_each_lane_group(const Panels& p, std::int64_t sample, std::int64_t samples, std::int64_t panel,
                                    std::int64_t begin, std::int64_t end, Visit visit) {
  constexpr std::int64_t n = kLanes<T>;
  const std::int64_t groups = (p.width + n - 1) / n;
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t lane = group * n, lanes = std::min(n, p.width - lane);
    const std::int64_t channel = panel * p.width + lane;
    const std::int64_t channels = std::clamp<std::int64_t>(p.channels - channel, 0, lanes);
    visit(Run{sample, samples, (panel * p.positions + begin) * p.width + lane, p.width, end - begin, lanes, 0, channel,
              channels, false, (panel * groups + group) * p.positions + begin});
  }
}

/// Visits the runs that make up some samples, each channel's in the order of samples and positions, however the batch
/// is cut.
template <class T, class Visit>
HWY_INLINE void for_each_run(const Extent& e, Visit visit) {
  const Panels& p = e.panels;
  if (p.width == 1) return for_each_plane<T>(e, visit);
  if (p.count > 1 || p.width <= kLanes<T>) {
    for (std::int64_t panel = 0; panel < p.count; ++panel) {
      for_each_lane_group<T>(p, 0, e.samples, panel, 0, p.positions, visit);
    }
    return;
  }
  // Walking down a wide panel lane group by lane group would touch each page once per group: do it in cached tiles.
  constexpr std::int64_t kTileBytes = 16384, kMinTile = 16;
  const std::int64_t tile = std::max(kMinTile, kTileBytes / (p.width * static_cast<std::int64_t>(sizeof(T))));
  if (p.positions == 1) {
    for (std::int64_t n = 0; n < e.samples; n += tile) {
      for_each_lane_group<T>(p, n, std::min(tile, e.samples - n), 0, 0, 1, visit);
    }
    return;
  }
  for (std::int64_t sample = 0; sample < e.samples; ++sample) {
    for (std::int64_t begin = 0; begin < p.positions; begin += tile) {
      for_each_lane_group<T>(p, sample, 1, 0, begin, std::min(begin + tile, p.positions), visit);
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

template <class T>
HWY_INLINE Vec<T> load_channels(const T* coefficients, const Run& run) {
  if (run.one_channel) return hn::Set(Tag<T>(), coefficients[run.channel]);
  if (run.channels == kLanes<T>) return hn::LoadU(Tag<T>(), coefficients + run.channel);
  return Part<T>(run.channels).load(coefficients + run.channel);
}

/// Calls body(io, offset of the vector in the sample, index of the vector in the sample) along a run.
template <class T, class Body>
HWY_INLINE void sweep(const Run& run, Body body) {
  const auto vectors = [&](const auto& io) HWY_ATTR {
    std::int64_t at = run.offset, index = run.first_vector;
    const std::int64_t step = run.step, end = index + run.count;
    for (; index + 2 <= end; index += 2, at += 2 * step) {
      body(io, at, index);
      body(io, at + step, index + 1);
    }
    if (index < end) body(io, at, index);
  };
  if (run.lanes == kLanes<T>) {
    vectors(Whole<T>());
  } else {
    vectors(Part<T>(run.lanes));
  }
  if (run.tail > 0) body(Part<T>(run.tail), run.offset + run.count * run.step, run.first_vector + run.count);
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
  HWY_INLINE void add(Vec<T> v) {
    if constexpr (sizeof(T) == sizeof(double)) {
      part[0] = hn::Add(part[0], v);
    } else {
#if HWY_TARGET == HWY_SCALAR
      part[0] = hn::Add(part[0], hn::PromoteTo(Tag<double>(), v));
#else
      const hn::Half<Tag<T>> half;
      part[0] = hn::Add(part[0], hn::PromoteTo(Tag<double>(), hn::LowerHalf(half, v)));
      part[1] = hn::Add(part[1], hn::PromoteTo(Tag<double>(), hn::UpperHalf(half, v)));
#endif
    }
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
  /// The sum of all lanes in lane 0, added in their order; 0 in the others.
  HWY_INLINE void gather() {
    HWY_ALIGN double lanes[kLanes<T>];
    store(lanes);
    for (std::int64_t i = 1; i < kLanes<T>; ++i) lanes[0] += lanes[i];
    std::fill(lanes + 1, lanes + kLanes<T>, 0.0);
    *this = Wide(lanes);
  }
};

template <class T>
HWY_INLINE Wide<T> load_wide_channels(const double* values, const Run& run) {
  if (run.channels == kLanes<T>) return Wide<T>(values + run.channel);
  HWY_ALIGN double lanes[kLanes<T>] = {};
  std::copy_n(values + run.channel, run.channels, lanes);
  return Wide<T>(lanes);
}

template <class T>
HWY_INLINE void store_wide_channels(const Wide<T>& wide, double* values, const Run& run) {
  if (run.channels == kLanes<T>) return wide.store(values + run.channel);
  HWY_ALIGN double lanes[kLanes<T>];
  wide.store(lanes);
  std::copy_n(lanes, run.channels, values + run.channel);
}

/// A per-channel point that sums are taken about: as rounded to T, in which the sums are, and what that adds to each
/// value.
template <class T>
struct Origin {
  Vec<T> rounded;
  Wide<T> error;

  HWY_INLINE Origin(const double* origin, const Run& run) {
    const auto exact = load_wide_channels<T>(origin, run);
    rounded = exact.narrow();
    error.add(rounded);
    error.subtract(exact);
    if (run.one_channel) rounded = hn::Set(Tag<T>(), hn::GetLane(rounded));
  }
};

}  // namespace syncbn::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
