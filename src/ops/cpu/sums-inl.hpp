// Sums along the runs of samples: short blocks in T, then f64. Compiled once per instruction set.
#if defined(SYNCBN_OPS_CPU_SUMS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef SYNCBN_OPS_CPU_SUMS_INL
#undef SYNCBN_OPS_CPU_SUMS_INL
#else
#define SYNCBN_OPS_CPU_SUMS_INL
#endif

#include "ops/cpu/runs-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace syncbn::ops::cpu::HWY_NAMESPACE {

/// The lanes of a Vec<T> in f64. `high` is unused if T is f64. (Two members instead of an array, so that the compiler
/// keeps them in registers.)
template <class T>
struct Wide {
  static constexpr bool kTwo = kLanes<T> > kLanes<double>;
  Vec<double> low = hn::Zero(Tag<double>()), high = hn::Zero(Tag<double>());

  HWY_INLINE Wide() = default;
  HWY_INLINE Wide(Vec<double> low_part, Vec<double> high_part) : low(low_part), high(high_part) {}
  static HWY_INLINE Wide all(double value) { return {hn::Set(Tag<double>(), value), hn::Set(Tag<double>(), value)}; }
  explicit HWY_INLINE Wide(const double* values) : low(hn::LoadU(Tag<double>(), values)) {
    if constexpr (kTwo) high = hn::LoadU(Tag<double>(), values + kLanes<double>);
  }
  HWY_INLINE void store(double* values) const {
    hn::StoreU(low, Tag<double>(), values);
    if constexpr (kTwo) hn::StoreU(high, Tag<double>(), values + kLanes<double>);
  }
  static HWY_INLINE Wide promote(Vec<T> v) {
    if constexpr (sizeof(T) == sizeof(double)) {
      return {v, hn::Zero(Tag<double>())};
    } else {
#if HWY_TARGET == HWY_SCALAR
      return {hn::PromoteTo(Tag<double>(), v), hn::Zero(Tag<double>())};
#else
      const hn::Half<Tag<T> > half;
      return {hn::PromoteTo(Tag<double>(), hn::LowerHalf(half, v)),
              hn::PromoteTo(Tag<double>(), hn::UpperHalf(half, v))};
#endif
    }
  }
  HWY_INLINE void add(Vec<T> v) {
    add(promote(v));
  }
  HWY_INLINE void add(const Wide& other) {
    low = hn::Add(low, other.low);
    if constexpr (kTwo) high = hn::Add(high, other.high);
  }
  HWY_INLINE void subtract(const Wide& other) {
    low = hn::Sub(low, other.low);
    if constexpr (kTwo) high = hn::Sub(high, other.high);
  }
  /// The lanes, rounded to T.
  HWY_INLINE Vec<T> narrow() const {
    if constexpr (sizeof(T) == sizeof(double)) {
      return low;
    } else {
#if HWY_TARGET == HWY_SCALAR
      return hn::DemoteTo(Tag<T>(), low);
#else
      const hn::Half<Tag<T> > half;
      return hn::Combine(Tag<T>(), hn::DemoteTo(half, high), hn::DemoteTo(half, low));
#endif
    }
  }
  /// Adds a * b.
  HWY_INLINE void add_product(const Wide& a, const Wide& b) {
    low = hn::MulAdd(a.low, b.low, low);
    if constexpr (kTwo) high = hn::MulAdd(a.high, b.high, high);
  }
  HWY_INLINE Vec<double> sum() const {
    return kTwo ? hn::Add(low, high) : low;
  }
};

/// Sums the lanes of several vectors, as many as they have lanes: lane i is the sum of the lanes of vector i. (Summed
/// together, since the sum over one vector's lanes is a chain of dependent additions.)
template <class D>
HWY_INLINE hn::Vec<D> sums_of_lanes(D d, const double* vectors) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Load(d, vectors);
#else
  constexpr std::int64_t n = kLanes<double>;
  static_assert(n <= 8);
  hn::Vec<D> sums[n / 2];  // per 128-bit block: partial sums of two neighbouring vectors
  for (std::int64_t i = 0; i < n / 2; ++i) {
    const auto a = hn::Load(d, vectors + 2 * i * n), b = hn::Load(d, vectors + (2 * i + 1) * n);
    sums[i] = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  }
  if constexpr (n == 8) {
    for (std::int64_t i = 0; i < 2; ++i) {
      const auto a = sums[2 * i], b = sums[2 * i + 1];
      sums[i] = hn::Add(hn::OddEvenBlocks(b, a), hn::SwapAdjacentBlocks(hn::OddEvenBlocks(a, b)));
    }
  }
  if constexpr (n >= 4) {
    const auto a = sums[0], b = sums[1];
    sums[0] = hn::Add(hn::ConcatLowerLower(d, b, a), hn::ConcatUpperUpper(d, b, a));
  }
  return sums[0];
#endif
}

/// Loads per-channel f64 values, one per lane, from `lane` channels behind the run's first.
template <class T, Way kWay>
HWY_INLINE Wide<T> load_wide_channels(const double* values, const Run& run, std::int64_t lane) {
  values += run.channel + lane;
  if constexpr (kWay == Way::planes) return Wide<T>::all(*values);
  if constexpr (kWay >= Way::across) return Wide<T>(values);
  HWY_ALIGN double copy[kLanes<T>];
  return Wide<T>(padded<T>(values, run.channels, copy));
}

/// The same, rounded to T.
template <class T, Way kWay>
HWY_INLINE Vec<T> load_narrow_channels(const double* values, const Run& run, std::int64_t lane) {
  if constexpr (kWay == Way::planes) return hn::Set(Tag<T>(), static_cast<T>(values[run.channel + lane]));
  return load_wide_channels<T, kWay>(values, run, lane).narrow();
}

/// Two sums per channel, of a and of b, in f64, while a run adds to them. `error`, if kCorrected: a per-channel factor;
/// error * a is also added to b.
template <class T, Way kWay, bool kCorrected>
class PairOfSums {
 public:
  /// Loads the sums of the channels from `lane` behind the run's first on.
  HWY_INLINE PairOfSums(double* a, double* b, const Run& run, std::int64_t lane, const Wide<T>& error)
      : a_(a + run.channel + lane), b_(b + run.channel + lane), channels_(run.channels), error_(error) {
    if constexpr (kWay == Way::planes) return;
    HWY_ALIGN double copy[kLanes<T>];
    sum_a_ = Wide<T>(padded<T>(static_cast<const double*>(a_), channels_, copy));
    sum_b_ = Wide<T>(padded<T>(static_cast<const double*>(b_), channels_, copy));
  }
  /// Adds vectors of values of the same channels.
  HWY_INLINE void add(Vec<T> a, Vec<T> b) {
    const auto wide = Wide<T>::promote(a);
    sum_a_.add(wide), sum_b_.add(b);
    if constexpr (kCorrected) sum_b_.add_product(error_, wide);
  }
  /// Adds a and left * right, without the correction of b.
  HWY_INLINE void add_one(const Wide<T>& a, const Wide<T>& left, const Wide<T>& right) {
    sum_a_.add(a), sum_b_.add_product(left, right);
  }
  HWY_INLINE void store() const { store(sum_a_, a_), store(sum_b_, b_); }
  /// For planes: stores the vectors of sums, whose lanes are still to be added.
  HWY_INLINE void store_lanes(double* a, double* b) const {
    hn::Store(sum_a_.sum(), Tag<double>(), a), hn::Store(sum_b_.sum(), Tag<double>(), b);
  }
  /// For `planes` planes, of which this is the last: adds up the lanes that store_lanes() has stored for each.
  HWY_INLINE void store_planes(const double* lanes_a, const double* lanes_b, std::int64_t planes) const {
    const Tag<double> d;
    HWY_ALIGN double a[kLanes<double>], b[kLanes<double>];
    hn::Store(sums_of_lanes(d, lanes_a), d, a), hn::Store(sums_of_lanes(d, lanes_b), d, b);
    for (std::int64_t i = 0; i < planes; ++i) a_[i + 1 - planes] += a[i], b_[i + 1 - planes] += b[i];
  }

 private:
  HWY_INLINE void store(const Wide<T>& sum, double* values) const {
    if (channels_ == kLanes<T>) return sum.store(values);
    HWY_ALIGN double lanes[kLanes<T>];
    sum.store(lanes);
    std::copy_n(lanes, channels_, values);
  }

  double *a_, *b_;
  std::int64_t channels_;
  Wide<T> error_, sum_a_, sum_b_;
};

/// Sums a and b of term(io, offset, bits, the result of load(lane) for its channels, a, b) along a run, in short blocks
/// in T before they are added to sums_of(lane, result of load). Where a block is a single vector, one(io, offset, bits,
/// result of load, sums) adds it.
template <class T, Way kWay, class Load, class Sums, class Term, class One>
HWY_INLINE void sum_along(const Run& run, Load load, Sums sums_of, Term term, One one) {
  constexpr std::int64_t n = kLanes<T>;
  const auto zero = hn::Zero(Tag<T>());
  if constexpr (kWay == Way::samples) {
    const auto left = load(0), right = load(n);
    auto sums_left = sums_of(0, left), sums_right = sums_of(n, right);
    std::int64_t at = run.at, mask = run.mask;
    for (std::int64_t row = 0; row < run.rows; ++row, at += run.row_step, mask += run.mask_row_step) {
      one(Whole<T>(), at, mask, left, sums_left);
      one(Whole<T>(), at + n, mask + run.mask_step, right, sums_right);
    }
    sums_left.store(), sums_right.store();
  } else if constexpr (kWay == Way::across) {
    constexpr std::int64_t kRows = 32;
    static_assert(kColumns<kWay> == 4);
    const decltype(load(0)) channels[] = {load(0), load(n), load(2 * n), load(3 * n)};
    decltype(sums_of(0, channels[0])) sums[] = {sums_of(0, channels[0]), sums_of(n, channels[1]),
                                                sums_of(2 * n, channels[2]), sums_of(3 * n, channels[3])};
    for (std::int64_t begin = 0; begin < run.rows; begin += kRows) {
      Vec<T> a[] = {zero, zero, zero, zero}, b[] = {zero, zero, zero, zero};
      for (std::int64_t row = begin; row < std::min(begin + kRows, run.rows); ++row) {
        const std::int64_t at = run.at + row * run.row_step, mask = run.mask + row * run.mask_row_step;
        for (std::int64_t k = 0; k < kColumns<kWay>; ++k)
          term(Whole<T>(), at + k * n, mask + k * run.mask_step, channels[k], a[k], b[k]);
      }
      for (std::int64_t k = 0; k < kColumns<kWay>; ++k) sums[k].add(a[k], b[k]);
    }
    for (const auto& s : sums) s.store();
  } else {
    // For planes, the sums over lanes are computed together for several planes.
    constexpr std::int64_t planes = kLanes<double>;
    HWY_ALIGN double lanes_a[planes * planes], lanes_b[planes * planes];
    // Local copies, since the compiler must assume that stores change what `run` refers to.
    const std::int64_t rows = run.rows, row_step = run.row_step, mask_row_step = run.mask_row_step;
    const std::int64_t row_channels = run.row_channels, vectors = run.count, block = run.block, tail = run.tail;
    std::int64_t row_at = run.at, row_mask = run.mask;
    with_steps<T, kWay>(run, [&](const auto& io, auto step, auto mask_step) SYNCBN_INLINED {
      for (std::int64_t row = 0; row < rows; ++row, row_at += row_step, row_mask += mask_row_step) {
        const auto channels = load(row * row_channels);
        auto sums = sums_of(row * row_channels, channels);
        std::int64_t at = row_at, mask = row_mask;
        if (kWay == Way::down && block == 1) {
          for (std::int64_t i = 0; i < vectors; ++i, at += step, mask += mask_step) one(io, at, mask, channels, sums);
        } else {
          for (std::int64_t left = vectors; left > 0 || tail > 0;) {
            // Four interleaved sums hide the latency of the addition.
            Vec<T> a0 = zero, a1 = zero, a2 = zero, a3 = zero, b0 = zero, b1 = zero, b2 = zero, b3 = zero;
            const std::int64_t count = std::min(block, left);
            std::int64_t i = 0;
            for (; i + 4 <= count; i += 4, at += 4 * step, mask += 4 * mask_step) {
              term(io, at, mask, channels, a0, b0);
              term(io, at + step, mask + mask_step, channels, a1, b1);
              term(io, at + 2 * step, mask + 2 * mask_step, channels, a2, b2);
              term(io, at + 3 * step, mask + 3 * mask_step, channels, a3, b3);
            }
            for (; i < count; ++i, at += step, mask += mask_step) term(io, at, mask, channels, a0, b0);
            left -= count;
            const bool ends = left == 0;
            if (ends && tail > 0) term(Part<T>(tail), at, mask, channels, a1, b1);
            sums.add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), hn::Add(hn::Add(b0, b1), hn::Add(b2, b3)));
            if (ends) break;
          }
        }
        if constexpr (kWay == Way::planes) {
          const std::int64_t plane = row % planes;
          sums.store_lanes(lanes_a + plane * planes, lanes_b + plane * planes);
          if (plane + 1 == planes || row + 1 == rows) sums.store_planes(lanes_a, lanes_b, plane + 1);
        } else {
          sums.store();
        }
      }
    });
  }
}

}  // namespace syncbn::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
