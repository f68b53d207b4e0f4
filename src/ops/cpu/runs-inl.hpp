// How the vector kernels go through samples in the form of Panels. Compiled once per instruction set, hence the include
// guard, which lets it in once for each.
#if defined(SYNCBN_OPS_CPU_RUNS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef SYNCBN_OPS_CPU_RUNS_INL
#undef SYNCBN_OPS_CPU_RUNS_INL
#else
#define SYNCBN_OPS_CPU_RUNS_INL
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ops/backend.hpp"
#include "ops/cpu/panels.hpp"

// For lambdas within loops over vectors, whose captures must stay in registers.
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

/// What the lanes of a run's vectors stand for.
enum class Way {
  down,     ///< panels: the same channels in all vectors of a row, one row per panel
  planes,   ///< positions of one channel, one row per channel
  across,   ///< a wide panel: neighbouring channels from a row's first vector to its last, one row per position
  samples,  ///< as across, for sums; one row per sample, whose sums are f64 from the first addition on
};
template <Way kWay>
using WayTag = std::integral_constant<Way, kWay>;

/// The vectors of `lanes` values that a sweep goes along: `rows` rows of `count` vectors, `step` values apart, possibly
/// followed by one of `tail` values.
struct Run {
  std::int64_t at, step, row_step;              ///< offset and distances of the values, in values
  std::int64_t mask, mask_step, mask_row_step;  ///< offset and distances of the vectors' bits, in bytes
  std::int64_t rows, count, lanes, tail;
  std::int64_t channel;       ///< first channel of the first row
  std::int64_t row_channels;  ///< channels from one row's start to the next one's
  std::int64_t channels;      ///< existing channels of a vector; the others are padding
  std::int64_t block;         ///< vectors of a row that are summed in T before they are converted to f64
};

/// For sums: vectors per row of a run across a panel, as many as their sums fit in registers.
template <Way kWay>
constexpr std::int64_t kColumns = kWay == Way::samples ? 2 : 4;

/// Calls visit(run, WayTag) for the runs that make up some samples. For sums, the values of each channel are visited in
/// the order of samples and positions, however the batch is split. For maps, where the order does not matter, later
/// samples come first, since the previous sweep has left these in cache.
template <class T, bool kMap, class Visit>
HWY_INLINE void for_each_run(const Extent& e, std::int64_t mask_bytes, Visit visit) {
  constexpr std::int64_t n = kLanes<T>, kBlock = 64, kTileBytes = 16384, kGroupBytes = 65536;
  const Panels& p = e.panels;
  const bool planes = p.width == 1;
  // Samples that are a single row of channels are treated as the positions of one wide panel.
  const bool rows = !planes && p.positions == 1;
  const std::int64_t samples = rows ? 1 : e.samples, panels = rows ? 1 : p.count;
  const std::int64_t width = rows ? p.size() : p.width, lane_groups = (width + n - 1) / n;
  const std::int64_t positions = rows ? e.samples : planes ? p.positions / n : p.positions;
  const std::int64_t tail = planes ? p.positions % n : 0;
  const std::int64_t mask_bytes_of_position = rows ? mask_bytes : kMaskBytes<T>;
  const std::int64_t mask_bytes_of_group = rows ? kMaskBytes<T> : (positions + (tail > 0)) * kMaskBytes<T>;
  // Going down a wide panel lane group by lane group would touch each page once per group: do it in cached tiles.
  const std::int64_t row_bytes = width * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t tile =
      lane_groups == 1 ? std::max<std::int64_t>(1, positions) : std::max<std::int64_t>(8, kTileBytes / row_bytes);
  const std::int64_t tiles = std::max<std::int64_t>(1, (positions + tile - 1) / tile);
  // Go backwards in steps long enough for memory prefetching within a step.
  const std::int64_t sample_bytes = std::max<std::int64_t>(1, p.size() * static_cast<std::int64_t>(sizeof(T)));
  const std::int64_t group = kMap ? std::max<std::int64_t>(1, kGroupBytes / sample_bytes) : 1;

  Run run{};
  run.block = rows ? 1 : kBlock;
  for (std::int64_t i = 0; i < samples; ++i) {
    const std::int64_t first = i / group * group, in_group = std::min(group, samples - first);
    const std::int64_t sample = kMap ? samples - first - in_group + (i - first) : i;
    for (std::int64_t panel = 0; panel < panels;) {
      // Panels without padding form one run.
      const std::int64_t whole = planes ? panels : lane_groups == 1 ? p.channels / n - panel : 1;
      const std::int64_t together = std::clamp<std::int64_t>(whole, 1, panels - panel);
      for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t begin = (kMap ? tiles - 1 - t : t) * tile, count = std::min(tile, positions - begin);
        run.channel = panel * width;
        run.at = sample * p.size() + panel * p.positions * p.width + begin * width;
        run.mask = sample * mask_bytes + panel * lane_groups * mask_bytes_of_group + begin * mask_bytes_of_position;
        std::int64_t lane = 0;
        if (lane_groups > 1) {
          run.rows = count, run.row_step = width, run.mask_row_step = mask_bytes_of_position, run.row_channels = 0;
          run.count = kMap ? width / n : rows ? kColumns<Way::samples> : kColumns<Way::across>;
          run.tail = kMap ? width % n : 0;
          run.lanes = run.channels = n, run.step = n, run.mask_step = mask_bytes_of_group;
          const std::int64_t columns = run.count * n, last = kMap ? width : std::min(width, p.channels - run.channel);
          for (; lane + columns <= last; lane += columns) {
            if (rows && !kMap) {
              visit(run, WayTag<Way::samples>());
            } else {
              visit(run, WayTag<Way::across>());
            }
            run.channel += columns, run.at += columns, run.mask += run.count * mask_bytes_of_group;
          }
          if (kMap) continue;
        }
        run.rows = together, run.row_step = p.positions * p.width;
        run.mask_row_step = lane_groups * mask_bytes_of_group, run.row_channels = width;
        run.count = count, run.tail = tail;
        run.step = planes ? n : width, run.mask_step = mask_bytes_of_position;
        for (; lane < width; lane += n) {
          run.lanes = planes ? n : std::min(n, width - lane);
          run.channels = planes ? 1 : std::clamp<std::int64_t>(p.channels - run.channel, 0, run.lanes);
          if (planes) {
            visit(run, WayTag<Way::planes>());
          } else {
            visit(run, WayTag<Way::down>());
          }
          run.channel += n, run.at += n, run.mask += mask_bytes_of_group;
        }
      }
      panel += together;
    }
  }
}

/// Reads and writes a vector of values: whole ...
template <class T>
struct Whole {
  HWY_INLINE Vec<T> load(const T* p) const { return hn::LoadU(Tag<T>(), p); }
  HWY_INLINE void store(Vec<T> v, T* p) const {
    // Output was last used long ago, so it is fetched into cache ahead of time: large tensors take up to a third less.
    constexpr std::int64_t kAheadBytes = 1024;
    __builtin_prefetch(p + kAheadBytes / static_cast<std::int64_t>(sizeof(T)), 1);
    hn::StoreU(v, Tag<T>(), p);
  }
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

/// Returns `values` or, if only `count` of them exist, a copy padded with zeros to the lanes of a vector.
template <class T, class Value>
HWY_INLINE const Value* padded(const Value* values, std::int64_t count, Value* copy) {
  if (count == kLanes<T>) return values;
  std::fill_n(copy, kLanes<T>, Value(0));
  std::copy_n(values, count, copy);
  return copy;
}

/// Loads per-channel coefficients for a vector that starts `lane` channels behind the run's first.
template <class T, Way kWay>
HWY_INLINE Vec<T> load_channels(const T* values, const Run& run, std::int64_t lane) {
  values += run.channel + lane;
  if constexpr (kWay == Way::planes) return hn::Set(Tag<T>(), *values);
  if constexpr (kWay >= Way::across) return hn::LoadU(Tag<T>(), values);
  HWY_ALIGN T copy[kLanes<T>];
  return hn::LoadU(Tag<T>(), padded<T>(values, run.channels, copy));
}

/// Calls visit(io, step, step of the bits) as the run's vectors require; for adjacent vectors the steps are constants.
template <class T, Way kWay, class Visit>
HWY_INLINE void with_steps(const Run& run, Visit visit) {
  using Next = std::integral_constant<std::int64_t, kLanes<T>>;
  using NextBits = std::integral_constant<std::int64_t, kMaskBytes<T>>;
  if constexpr (kWay == Way::planes) {
    visit(Whole<T>(), Next(), NextBits());
  } else if constexpr (kWay == Way::across) {
    visit(Whole<T>(), Next(), run.mask_step);
  } else if (run.lanes != kLanes<T>) {
    visit(Part<T>(run.lanes), run.step, run.mask_step);
  } else if (run.step == Next::value && run.mask_step == NextBits::value) {
    visit(Whole<T>(), Next(), NextBits());
  } else {
    visit(Whole<T>(), run.step, run.mask_step);
  }
}

/// v where the mask is set, else 0.
template <class T>
HWY_INLINE Vec<T> masked(hn::Mask<Tag<T>> mask, Vec<T> v) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  // A load under a mask would not begin before the mask is known; out of memory that takes up to twice the time. So the
  // compiler must not see that some lanes are not needed.
  asm("" : "+v"(v.raw));
#endif
  return hn::IfThenElseZero(mask, v);
}

/// dy where the ReLU passed, else 0.
template <FusedRelu kRelu, class T>
HWY_INLINE Vec<T> gate(Vec<T> dy, Vec<T> xc, Vec<T> scale, Vec<T> shift, const std::uint8_t* mask) {
  const Tag<T> d;
  if constexpr (kRelu == FusedRelu::recompute) {
    return masked<T>(hn::Gt(hn::MulAdd(xc, scale, shift), hn::Zero(d)), dy);
  } else if constexpr (kRelu == FusedRelu::bits) {
    return masked<T>(hn::LoadMaskBits(d, mask), dy);
  } else {
    return dy;
  }
}

/// The bits of a mask, in the first kMaskBytes bytes.
template <class T>
HWY_INLINE std::uint64_t bits_of(hn::Mask<Tag<T>> mask) {
  HWY_ALIGN std::uint8_t bytes[8] = {};
  hn::StoreMaskBits(Tag<T>(), mask, bytes);
  // Read as they were written, so that nothing goes through memory.
  std::conditional_t<kMaskBytes<T> == 1, std::uint8_t,
                     std::conditional_t<kMaskBytes<T> == 2, std::uint16_t, std::uint64_t>>
      bits;
  std::memcpy(&bits, bytes, sizeof(bits));
  return bits;
}

/// Channel data that is the same for several vectors.
template <class Channels>
struct Same {
  Channels channels;
  HWY_INLINE const Channels& operator()(std::int64_t) const { return channels; }
};

/// Calls body(io, offset of the vector, offset of its bits, result of load(lane) for its channels) along a run. If it
/// returns anything, these are the vector's bits_of(), which are stored in `bits`.
template <class T, Way kWay, class Load, class Body>
HWY_INLINE void sweep(const Run& run, std::uint8_t* bits, Load load, Body body) {
  constexpr std::int64_t n = kLanes<T>;
  using Channels = decltype(load(0));
  constexpr bool kBits = !std::is_void_v<std::invoke_result_t<Body, Whole<T>, std::int64_t, std::int64_t, Channels>>;
  // Visits several vectors; channels(i) is the channel data of the i-th. Adjacent bits are written by one store:
  // scattered stores delay those of the values.
  const auto visit = [&](auto number, const auto& io, std::int64_t at, auto step, std::int64_t mask, auto mask_step,
                         const auto& channels) SYNCBN_INLINED {
    constexpr bool kFit = decltype(number)::value > 1 && decltype(number)::value * kMaskBytes<T> <= 8;
    if constexpr (!kBits) {
      for (std::int64_t i = 0; i < number; ++i) body(io, at + i * step, mask + i * mask_step, channels(i));
    } else if (kFit && mask_step == kMaskBytes<T>) {
      std::uint64_t together = 0;
      for (std::int64_t i = 0; i < number; ++i)
        together |= body(io, at + i * step, mask, channels(i)) << (i * 8 * kMaskBytes<T> % 64);
      std::memcpy(bits + mask, &together, static_cast<std::size_t>(number * kMaskBytes<T>));
    } else {
      for (std::int64_t i = 0; i < number; ++i) {
        const std::uint64_t one = body(io, at + i * step, mask, channels(i));
        std::memcpy(bits + mask + i * mask_step, &one, kMaskBytes<T>);
      }
    }
  };
  constexpr std::integral_constant<std::int64_t, 1> kOne;
  constexpr std::integral_constant<std::int64_t, 4> kFour;
  constexpr std::integral_constant<std::int64_t, kBits ? 4 : 2> kSome;
  // Local copies, since the compiler must assume that stores of bits change what `run` refers to.
  const std::int64_t rows = run.rows, count = run.count, tail = run.tail;
  const std::int64_t row_step = run.row_step, mask_row_step = run.mask_row_step, row_channels = run.row_channels;
  std::int64_t row_at = run.at, row_mask = run.mask, row = 0;
  with_steps<T, kWay>(run, [&](const auto& io, auto step, auto mask_step) SYNCBN_INLINED {
    const auto along_row = [&](const auto& channels) SYNCBN_INLINED {
      std::int64_t at = row_at, mask = row_mask, i = 0;
      const auto next = [&](std::int64_t k) SYNCBN_INLINED { return channels(i + k); };
      for (; i + kSome <= count; i += kSome, at += kSome * step, mask += kSome * mask_step)
        visit(kSome, io, at, step, mask, mask_step, next);
      for (; i < count; ++i, at += step, mask += mask_step) visit(kOne, io, at, step, mask, mask_step, next);
      if (tail > 0) visit(kOne, Part<T>(tail), at, step, mask, mask_step, next);
    };
    if (kWay == Way::across && !(kBits && mask_step == kMaskBytes<T>)) {
      // Handle a few rows at a time, so that channel data is loaded once for all of them.
      const auto rows_at_once = [&](auto height) SYNCBN_INLINED {
        for (; row + height <= rows; row += height, row_at += height * row_step, row_mask += height * mask_row_step) {
          std::int64_t at = row_at, mask = row_mask, lane = 0;
          for (std::int64_t i = 0; i < count; ++i, at += step, mask += mask_step, lane += n)
            visit(height, io, at, row_step, mask, mask_row_step, Same<Channels>{load(lane)});
          if (tail > 0) visit(height, Part<T>(tail), at, row_step, mask, mask_row_step, Same<Channels>{load(lane)});
        }
      };
      rows_at_once(kFour);
      rows_at_once(kOne);
    }
    for (; row < rows; ++row, row_at += row_step, row_mask += mask_row_step) {
      if constexpr (kWay == Way::across) {
        along_row([&](std::int64_t i) SYNCBN_INLINED { return load(i * n); });
      } else {
        along_row(Same<Channels>{load(row * row_channels)});
      }
    }
  });
}

}  // namespace syncbn::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
