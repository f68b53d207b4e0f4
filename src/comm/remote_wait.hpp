#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "comm/links/transport.hpp"
#include "comm/threads/waiting_clock.hpp"

namespace syncbn::detail {

class RankContext;

/// How often a sleeping waiter checks the clock and looks for failures.
inline constexpr auto kLookAround = std::chrono::milliseconds(20);

/// The time since a wait began, measured by the waiting clock, and its limit.
class Deadline {
 public:
  explicit Deadline(double limit_s) : start_s_(waiting_clock_s()), limit_s_(limit_s) {}
  double elapsed_s() const { return waiting_clock_s() - start_s_; }
  bool passed() const { return elapsed_s() > limit_s_; }
  double limit_s() const { return limit_s_; }

 private:
  double start_s_;
  double limit_s_;
};

/// Time limit, failure checks and messages of a local thread that waits for other ranks.
class RemoteWait {
 public:
  /// The wait times out after `patience` times the usual limit.
  RemoteWait(RankContext& context, double patience = 1);
  /// To be called repeatedly while the operation is not complete. Throws Error on time-out (`waiting` says who waits
  /// for what), or when another rank has announced its failure; throws Aborted when this rank has failed.
  void check(const Link& link, const std::function<std::string()>& waiting);
  /// The same without a link: `missing()` names the ranks, see Link::missing() and Link::hops().
  void check(const std::function<std::string()>& waiting, const std::function<std::string()>& missing, int hops = 0);
  double elapsed_s() const { return deadline_.elapsed_s(); }

 private:
  RankContext& context_;
  const double let_others_speak_s_;
  const Deadline deadline_;
  double looked_at_s_ = 0;
  double speak_at_s_;
};

/// Waits outside World::run may take this many times longer: ranks read data sets and checkpoints, some from slower
/// disks than others.
inline constexpr double kSetUpPatience = 10;

/// How long a thread that waits for other ranks sleeps between two checks.
inline constexpr auto kRemoteNap = std::chrono::microseconds(50);

/// Advances an operation between ranks; returns true once it is complete. Errors are recorded before they are thrown.
bool advance(Link& link, RankContext& context);

/// Calls advance() until the operation is complete, on a thread that has nothing else to do: yields at first, then
/// sleeps for short times.
void drive(Link& link, RankContext& context, const std::function<std::string()>& waiting, double patience = 1);

}  // namespace syncbn::detail
