#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/round_up.hpp"
#include "core/slice.hpp"

namespace syncbn::detail {

/// Shards begin at multiples of this many values, so that they stay aligned and no two ranks write to the same cache
/// line.
inline constexpr std::int64_t kShardGrain = 16;

/// Between machines latency counts for messages of up to so many bytes, and everybody folds everything; longer ones go
/// in shards, in two stages.
inline constexpr std::size_t kWholeMessageBytes = 64 * 1024;

/// One of the `parts` shards of `count` values, from 0: as equal as multiples of `grain` allow. There may be empty
/// ones.
constexpr Slice shard_of(std::int64_t count, int part, int parts, std::int64_t grain = kShardGrain) {
  const auto begin = [=](int p) { return std::min(round_up(count, grain) / grain * p / parts * grain, count); };
  return {begin(part), begin(part + 1) - begin(part)};
}

}  // namespace syncbn::detail
