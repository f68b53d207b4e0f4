#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "syncbn/comm/world.hpp"

namespace syncbn {

/// Notices a rank that the others wait for: they lose a large part of their time, it next to none. One object for each
/// worker.
class Stragglers {
 public:
  /// `all`: all workers, of whom this is one. `updates`: made before.
  Stragglers(const Worker& worker, const Communicator& all, std::int64_t updates);
  Stragglers(const Stragglers&) = delete;
  Stragglers& operator=(const Stragglers&) = delete;

  /// `now_s`: the same on all workers; `waited_s`: how long this worker has waited for others so far; `updates`: made
  /// so far. Returns what is to be told to the user, once for each rank; mostly nothing. Collective over all workers.
  std::string look(double now_s, double waited_s, std::int64_t updates);

 private:
  const Worker& worker_;
  const Communicator& all_;
  double then_s_ = 0, waited_then_s_ = 0;
  std::int64_t updates_then_;
  std::set<std::int64_t> told_;
};

}  // namespace syncbn
