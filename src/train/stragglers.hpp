#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "syncbn/comm/world.hpp"

namespace syncbn {

/// Notices a rank that the others wait for: they lose a large part of their time, while it loses next to none. One
/// object per worker.
class Stragglers {
 public:
  /// `all`: the communicator of all workers. `updates`: number of updates made so far.
  Stragglers(const Worker& worker, const Communicator& all, std::int64_t updates);
  Stragglers(const Stragglers&) = delete;
  Stragglers& operator=(const Stragglers&) = delete;

  /// `now_s`: the time, which must be the same on all workers; `waited_s`: how long this worker has waited for others
  /// so far; `updates`: number of updates made so far. Returns a message for the user, at most once for each rank;
  /// usually "". Collective over all workers.
  std::string look(double now_s, double waited_s, std::int64_t updates);

 private:
  const Worker& worker_;
  const Communicator& all_;
  double then_s_ = 0, waited_then_s_ = 0;
  std::int64_t updates_then_;
  std::set<std::int64_t> told_;
};

}  // namespace syncbn
