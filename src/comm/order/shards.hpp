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

/// Messages between machines up to this size are dominated by latency, so they are sent whole and every rank folds
/// everything; longer messages are exchanged in shards, in two stages.
inline constexpr std::size_t kWholeMessageBytes = 64 * 1024;

/// Shard `part` (from 0) of the `parts` shards of `count` values, of lengths as equal as multiples of `grain` allow.
/// Shards may be empty.
constexpr Slice shard_of(std::int64_t count, int part, int parts, std::int64_t grain = kShardGrain) {
  const auto begin = [=](int p) { return std::min(round_up(count, grain) / grain * p / parts * grain, count); };
  return {begin(part), begin(part + 1) - begin(part)};
}

}  // namespace syncbn::detail
