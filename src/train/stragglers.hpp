#pragma once

#include <chrono>
#include <cstdint>
#include <set>
#include <string>

#include "syncbn/comm/world.hpp"

namespace syncbn {

/// Notices a rank that the others wait for: they lose a large part of their time, it next to none. One object for each
/// worker.
class Stragglers {
 public:
  /// `all`: all workers, of whom this is one. Below `interval_s` chance decides who waits.
  Stragglers(const Worker& worker, const Communicator& all, double interval_s = 5);
  Stragglers(const Stragglers&) = delete;
  Stragglers& operator=(const Stragglers&) = delete;

  /// `waited_s`: how long this worker has waited for others since its start. Returns what is to be told to the user,
  /// once for each rank; mostly nothing. Collective over all workers.
  std::string look(double waited_s, std::int64_t step);

 private:
  using Clock = std::chrono::steady_clock;
  const Worker& worker_;
  const Communicator& all_;
  const double interval_s_;
  Clock::time_point looked_at_ = Clock::now();
  double waited_then_s_ = 0;
  std::int64_t step_then_ = 0;
  std::set<std::int64_t> told_;
};

}  // namespace syncbn
