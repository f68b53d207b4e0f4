#pragma once

#include <atomic>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <string>

#include "comm/channels.hpp"
#include "comm/control_channel.hpp"
#include "comm/links/transport.hpp"
#include "comm/order/topology.hpp"
#include "comm/threads/crew.hpp"
#include "comm/worker_log.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn::detail {

/// State shared by the workers of one rank, and its first failure, which ends their waits.
class RankContext {
 public:
  RankContext(const WorldOptions& options, Topology topology, std::unique_ptr<Transport> transport);

  const Topology& topology() const { return topology_; }
  Crew& crew() { return crew_; }
  Transport& transport() { return *transport_; }
  double timeout_s() const { return timeout_s_; }
  Reduction reduction() const { return reduction_; }
  WorkerLog& log() { return log_; }
  Channels& channels() { return channels_; }
  ControlChannel& control() { return control_; }

  /// Records a failure: keeps the first one, ends all other waits of this rank with Aborted and tells the other ranks.
  /// Returns whether this was the first.
  bool fail(const std::exception_ptr& failure) noexcept;
  /// Records the failure, then throws it. The order matters: unwinding may have to wait for other workers.
  [[noreturn]] void fail_with(const Error& error);
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  void throw_if_failed() const;
  std::exception_ptr failure() const;
  /// Throws when another rank has announced its failure.
  void check_remote_failure();

  /// Records a failure when a worker has kept the others of its thread from running for longer than the time-out.
  void check_for_hogs() noexcept;

  /// "rank 2 (node3, workers 4-5) at layer 'bn1' step 4 (...)": this rank, in a collective.
  std::string describe_rank_at(const Header& header) const;

  /// Whether to print now that this rank waits for others: once per time-out, so that workers that wait for the same
  /// thing print it once.
  bool may_say_waiting() noexcept;
  /// Suppresses these messages: the creator of this world reports waits in terms of its own ranks.
  void keep_quiet() { said_waiting_s_ = std::numeric_limits<double>::infinity(); }

  /// Set during World::run.
  std::atomic<bool>& running() { return running_; }

 private:
  bool record(const std::exception_ptr& failure) noexcept;

  const Topology topology_;
  const double timeout_s_;
  const Reduction reduction_;
  std::unique_ptr<Transport> transport_;
  Crew crew_;
  WorkerLog log_;

  std::atomic<double> said_waiting_s_{-std::numeric_limits<double>::infinity()};  // by the waiting clock
  std::atomic<bool> running_{false};
  std::atomic<bool> failed_{false};
  mutable std::mutex failure_mutex_;
  std::exception_ptr failure_;

  Channels channels_;
  ControlChannel control_;
};

}  // namespace syncbn::detail
