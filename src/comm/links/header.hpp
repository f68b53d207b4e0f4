#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

#include "comm/order/combine.hpp"

namespace syncbn::detail {

enum class Operation : std::uint8_t { all_reduce, broadcast, barrier, duplicate, group, node_group };

/// A member's description of a collective. It starts every message, and is compared before a result is used.
struct Header {
  static constexpr std::uint32_t kMagic = 0x53424e31;  // "SBN1"
  std::uint32_t magic = kMagic;
  std::int32_t worker = 0;  ///< the sender: a worker, or the first worker of the sending rank
  std::uint64_t sequence = 0;
  std::int64_t step = 0;
  std::int64_t count = 0;
  std::int32_t root = 0;  ///< root of a broadcast: a worker
  Operation operation = Operation::barrier;
  Reduce reduce = Reduce::sum;
  Element type = Element::byte;
  std::array<char, 40> layer{};

  static Header make(Operation operation, const Tag& tag);
  std::size_t bytes() const { return bytes_of(count); }
  std::size_t bytes_of(std::int64_t values) const { return static_cast<std::size_t>(values) * size_of(type); }
};

/// Bytes reserved for a header in a message, so that the values behind it stay aligned.
inline constexpr std::size_t kHeaderBytes = 128;
static_assert(sizeof(Header) <= kHeaderBytes);

/// Describes a header: "layer 'bn1' step 17 (all_reduce sum f64 x 33)".
std::string describe(const Header& header);

/// Throws Error if two headers differ, naming both members by their numbers and the first difference.
void require_equal(const Header& a, int who_a, const Header& b, int who_b,
                   const std::function<std::string(int)>& name_of_side);

}  // namespace syncbn::detail
