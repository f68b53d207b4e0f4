#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/links/transport.hpp"

namespace syncbn::detail {

class RankContext;

/// What ranks, rather than workers, tell each other outside World::run.
class ControlChannel {
 public:
  ControlChannel(RankContext& context, int id);
  /// Returns every rank's bytes, indexed by rank. `what` names them in errors. Collective over ranks.
  std::vector<std::string> all_gather(const std::string& value, const std::string& what);

 private:
  std::vector<std::int64_t> sum_over_ranks(std::vector<std::int64_t> numbers, const std::string& what);
  std::vector<std::int64_t> sum_piece_over_ranks(std::vector<std::int64_t> numbers, const std::string& what);

  RankContext& context_;
  std::unique_ptr<Link> link_;  // null if there is one rank
  std::uint64_t calls_ = 0;
};

}  // namespace syncbn::detail
