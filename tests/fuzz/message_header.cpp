// Headers of two ranks' messages, compared.

#include <cstring>

#include "comm/links/header.hpp"
#include "fuzz/target.hpp"

namespace syncbn::fuzz {

using detail::Header;

std::vector<std::string> seeds() {
  const Header header = Header::make(detail::Operation::all_reduce, {"bn1", 17});
  const std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  return {bytes, bytes + bytes};
}

void read(std::string_view input) {
  Header ours = Header::make(detail::Operation::all_reduce, {"bn1", 17}), theirs = ours;
  std::memcpy(&theirs, input.data(), std::min(input.size(), sizeof theirs));
  if (input.size() > sizeof ours)
    std::memcpy(&ours, input.data() + sizeof theirs, std::min(input.size() - sizeof theirs, sizeof ours));
  detail::require_equal(theirs, 1, ours, 0, [](int rank) { return "rank " + std::to_string(rank); });
  require(theirs.bytes() == ours.bytes(), "sizes");
}

}  // namespace syncbn::fuzz
