#pragma once

// How a grid goes through a tensor channel by channel, and how the sums of its threads are combined. The order of every
// sum depends on the shape alone, never on the device or on the order in which blocks run.
//
// A block has 8 warps in blockDim.y rows of blockDim.x threads. With channels last, the threads of a row handle
// neighbouring vectors of channels and go through the positions (n, h, w); each keeps the sums of its own channels.
// With channels first, a block belongs to one channel and its threads go through the vectors of the channel's planes.
// blockIdx.x is the tile of channels, blockIdx.y the share of the positions, blockIdx.z the tensor, if a grid handles
// several.

#include <algorithm>
#include <stdexcept>

#include "ops/cuda/runtime.cuh"
#include "ops/cuda/vectors.cuh"

namespace syncbn::ops::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
/// Loads that a thread issues before it uses the first.
constexpr unsigned kUnroll = 4;
/// Total blocks for one tensor whose sums are computed: 2 to 4 on each multiprocessor of a large device, and few enough
/// to combine quickly; each thread takes at least kTurns * kUnroll vectors, so that a block writes little compared to
/// what it reads. For sweeps without sums, twice as many as a large device runs at a time.
constexpr unsigned kBlocks = 512, kTurns = 2, kMapBlocks = 2048;
/// Blocks whose sums are combined first; then the sums of these groups are combined.
constexpr unsigned kGroup = 16;

struct Extent {
  unsigned channels = 0;
  unsigned positions = 0;  ///< channels last: samples * spatial; first: vectors of one channel in all samples
  unsigned plane = 1;      ///< channels first: vectors of one channel in one sample
  std::size_t next = 0;    ///< values from one tensor's start to the next one's
};

/// A tensor's extent, and the grids that go through it: one for sums, one for per-value work.
struct Sweep {
  Extent extent;
  bool channels_last = false;
  bool full_width = false;  ///< 16 bytes at a time, otherwise single values
  dim3 grid, map_grid, block;

  Sweep(const Tensor& x, std::int64_t samples) {
    const int width = 16 / static_cast<int>(size_of(x.type));
    const std::int64_t channels = x.shape.c(), spatial = x.shape.spatial();
    channels_last = x.layout == Layout::channels_last || spatial == 1;
    full_width = (channels_last ? channels : spatial) % width == 0;
    const std::int64_t step = full_width ? width : 1;
    const std::int64_t plane = channels_last ? 1 : spatial / step;
    const std::int64_t positions = samples * (channels_last ? spatial : plane);
    if (positions >= (std::int64_t{1} << 31))
      throw std::length_error("too many values of a channel on one worker: use a smaller batch per worker");
    extent = {static_cast<unsigned>(channels), static_cast<unsigned>(positions), static_cast<unsigned>(plane), 0};
    const auto vectors = static_cast<unsigned>(channels_last ? (channels + step - 1) / step : 1);
    unsigned across = 1;
    while (across < 32 && across < vectors) across *= 2;
    block = dim3(across, kThreads / across);
    grid.x = map_grid.x = channels_last ? (vectors + across - 1) / across : extent.channels;
    const auto shares = [&](unsigned most, unsigned turns) {
      const unsigned vectors_of_block = block.y * kUnroll * turns;
      const unsigned useful = (extent.positions + vectors_of_block - 1) / vectors_of_block;
      return std::max(1U, std::min(useful, most / std::min(grid.x, most)));
    };
    grid.y = shares(kBlocks, kTurns);
    map_grid.y = shares(kMapBlocks, 1);
  }
  /// Handles every sample as a tensor of its own. Throws if a grid cannot have that many.
  static Sweep of_each(const Tensor& x, std::int64_t samples) {
    Sweep sweep(x, 1);
    constexpr std::int64_t kMost = 65535;
    if (samples > kMost) throw std::length_error("more than 65,535 samples on one worker");
    sweep.extent.next = static_cast<std::size_t>(x.sample_stride());
    sweep.grid.z = sweep.map_grid.z = static_cast<unsigned>(samples);
    // Few shares per sample, and the same number for any batch: a sample's sums must not depend on the other samples.
    sweep.grid.y = std::min(sweep.grid.y, kGroup);
    sweep.map_grid.y = sweep.grid.y;
    return sweep;
  }
  /// Number of values of scratch memory that add_up_blocks() needs for `sums` sums of each channel.
  std::size_t partials(unsigned sums, DataType type) const {
    const std::size_t slots = channels_last && full_width ? 16 / size_of(type) : 1;
    return static_cast<std::size_t>(grid.z) * grid.x * grid.y * sums * slots * block.x;
  }
  /// Upper limit of add_up_blocks()'s counters for one tensor of any extent.
  static std::size_t counters(std::int64_t channels) {
    return 2 * static_cast<std::size_t>(channels) + kBlocks / kGroup;
  }
};

/// Calls run(a value of the tensor's type, kLast, kWidth) with the constants that the sweep needs.
template <class Run>
void visit_sweep(DataType type, const Sweep& sweep, Run run) {
  visit_type(type, [&](auto value) {
    constexpr int kFull = kFullWidth<decltype(value)>;
    using Full = std::integral_constant<int, kFull>;
    using One = std::integral_constant<int, 1>;
    if (sweep.channels_last) {
      return sweep.full_width ? run(value, std::true_type{}, Full{}) : run(value, std::true_type{}, One{});
    }
    return sweep.full_width ? run(value, std::false_type{}, Full{}) : run(value, std::false_type{}, One{});
  });
}

/// The path of one thread through a tensor.
template <bool kLast, int kWidth>
struct Walk {
  static constexpr int kChannels = kLast ? kWidth : 1;  ///< channels per thread
  const Extent& extent;
  unsigned channel, first, step;

  __device__ explicit Walk(const Extent& e)
      : extent(e),
        channel(kLast ? (blockIdx.x * blockDim.x + threadIdx.x) * kWidth : blockIdx.x),
        first(blockIdx.y * blockDim.y + threadIdx.y),
        step(gridDim.y * blockDim.y) {}

  __device__ bool active() const { return channel < extent.channels; }
  /// Offset of a position's first value in the tensor.
  __device__ std::size_t offset(unsigned position) const {
    if constexpr (kLast) return static_cast<std::size_t>(position) * extent.channels + channel;
    const unsigned sample = position / extent.plane, inside = position % extent.plane;
    const std::size_t plane = static_cast<std::size_t>(sample) * extent.channels + channel;
    return (plane * extent.plane + inside) * kWidth;
  }
  /// The index, among the thread's channels, of the channel that value i of a vector belongs to.
  __device__ static constexpr int slot(int i) { return kLast ? i : 0; }
};

/// kSums sums over the rows of a block: total[s][k][x] is sum s of slot k in column x. All threads of the block must
/// call it.
template <int kSums, int kChannels>
struct BlockSums {
  double of_warps[kWarps][kSums][kChannels][32];
  double total[kSums][kChannels][32];

  __device__ void add_up(double (&value)[kSums][kChannels]) {
    const unsigned across = blockDim.x;
    const unsigned thread = threadIdx.y * across + threadIdx.x, lane = thread % 32;
    for (int s = 0; s < kSums; ++s) {
      for (int k = 0; k < kChannels; ++k) {
        for (unsigned distance = 16; distance >= across; distance /= 2) {
          value[s][k] += __shfl_down_sync(0xffffffffU, value[s][k], distance);
        }
        if (lane < across) of_warps[thread / 32][s][k][lane] = value[s][k];
      }
    }
    __syncthreads();
    for (unsigned i = thread; i < kSums * kChannels * across; i += kThreads) {
      const unsigned column = i % across, k = i / across % kChannels, s = i / across / kChannels;
      double sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) sum += of_warps[warp][s][k][column];
      total[s][k][column] = sum;
    }
    __syncthreads();
  }
};

/// Stores `sums.total` at a block's own place. The last of `members` blocks to arrive, whichever it is, adds up the
/// places first, first + step, ... of all of them; it returns true there, with the totals in `sums.total`. `arrived` is
/// zero before and after.
template <int kSums, int kChannels>
__device__ bool add_up_places(BlockSums<kSums, kChannels>& sums, double* places, unsigned own, unsigned first,
                              unsigned step, unsigned members, unsigned* arrived) {
  constexpr unsigned kValues = kSums * kChannels;
  const unsigned across = blockDim.x;  // number of columns, whose values are adjacent
  for (unsigned i = threadIdx.y; i < kValues; i += blockDim.y) {
    places[(static_cast<std::size_t>(own) * kValues + i) * across + threadIdx.x] =
        sums.total[i / kChannels][i % kChannels][threadIdx.x];
  }
  __threadfence();
  __syncthreads();
  __shared__ bool last;
  if (threadIdx.x == 0 && threadIdx.y == 0) last = atomicAdd(arrived, 1U) == members - 1;
  __syncthreads();
  if (!last) return false;
  __threadfence();
  double value[kSums][kChannels] = {};
  for (unsigned m = threadIdx.y; m < members; m += blockDim.y) {
    const double* theirs = places + static_cast<std::size_t>(first + m * step) * kValues * across + threadIdx.x;
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
#pragma unroll
      for (int k = 0; k < kChannels; ++k) value[s][k] += __ldcg(theirs + (s * kChannels + k) * across);
    }
  }
  sums.add_up(value);
  if (threadIdx.x == 0 && threadIdx.y == 0) *arrived = 0;
  return true;
}

/// Adds up `sums.total` over the blocks of a tile of channels in two steps, so that no block reads much: the last of
/// each kGroup shares to arrive adds those, and the last of these adds all. It returns true there, with the totals in
/// `sums.total`. `partials`, `arrived`: scratch memory and counters of the tensor, see Sweep; counters are zero before
/// and after.
template <int kSums, int kChannels>
__device__ bool add_up_blocks(BlockSums<kSums, kChannels>& sums, double* partials, unsigned* arrived) {
  if (gridDim.y == 1) return true;
  const std::size_t tile = static_cast<std::size_t>(blockIdx.z) * gridDim.x + blockIdx.x;
  partials += tile * gridDim.y * kSums * kChannels * blockDim.x;
  const unsigned groups = (gridDim.y + kGroup - 1) / kGroup, group = blockIdx.y / kGroup, first = group * kGroup;
  arrived += blockIdx.x * (groups + 1);
  const unsigned left = gridDim.y - first, members = left < kGroup ? left : kGroup;
  if (!add_up_places(sums, partials, blockIdx.y, first, 1, members, arrived + 1 + group)) return false;
  return groups == 1 || add_up_places(sums, partials, first, 0, kGroup, groups, arrived);
}

}  // namespace syncbn::ops::cuda
