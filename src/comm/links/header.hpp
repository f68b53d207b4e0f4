#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>

#include "comm/order/combine.hpp"

namespace syncbn::detail {

enum class Operation : std::uint8_t { all_reduce, broadcast, barrier, duplicate, group, node_group };

/// What a member believes the collective to be. It leads every message, and is compared before a result is used.
struct Header {
  static constexpr std::uint32_t kMagic = 0x53424e31;  // "SBN1"
  std::uint32_t magic = kMagic;
  std::int32_t worker = 0;  ///< sender: a worker, or the first worker of the sending rank
  std::uint64_t sequence = 0;
  std::int64_t step = 0;
  std::int64_t count = 0;
  std::int32_t root = 0;  ///< of broadcast: a worker
  Operation operation = Operation::barrier;
  Reduce reduce = Reduce::sum;
  Element type = Element::byte;
  std::array<char, 40> layer{};

  static Header make(Operation operation, const Tag& tag);
  std::size_t bytes() const { return bytes_of(count); }
  std::size_t bytes_of(std::int64_t values) const { return static_cast<std::size_t>(values) * size_of(type); }
};

/// Bytes a header occupies in a message, so that what follows stays aligned.
inline constexpr std::size_t kHeaderBytes = 128;
static_assert(sizeof(Header) <= kHeaderBytes);

/// "layer 'bn1' step 17 (all_reduce sum f64 x 33)"
std::string describe(const Header& header);

/// Throws Error naming both sides, by their numbers, and the first difference, if there is one.
void require_equal(const Header& a, int who_a, const Header& b, int who_b,
                   const std::function<std::string(int)>& name_of_side);

}  // namespace syncbn::detail
