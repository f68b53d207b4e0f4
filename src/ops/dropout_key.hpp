#pragma once

#include <cstdint>

namespace syncbn::ops {

/// The key of a sample's random numbers for dropout in one layer, the same on every device. The multiplication spreads
/// neighbouring sample ids over all bits.
constexpr std::uint64_t dropout_key(std::uint64_t layer_key, std::int64_t sample_id) {
  return layer_key ^ ((static_cast<std::uint64_t>(sample_id) + 1) * 0x9E3779B97F4A7C15);
}

}  // namespace syncbn::ops
