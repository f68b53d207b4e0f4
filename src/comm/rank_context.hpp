#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "comm/links/transport.hpp"
#include "comm/order/topology.hpp"
#include "comm/threads/crew.hpp"
#include "comm/threads/waiting_clock.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn::detail {

class Channel;

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

/// State shared by the workers of one rank: the topology, the compute threads, the first failure, and the channels
/// under construction.
class RankContext {
 public:
  RankContext(const WorldOptions& options, Topology topology, std::unique_ptr<Transport> transport);

  const Topology& topology() const { return topology_; }
  Crew& crew() { return crew_; }
  Transport& transport() { return *transport_; }
  double timeout_s() const { return timeout_s_; }
  Reduction reduction() const { return reduction_; }
  const std::shared_ptr<Channel>& all_ptr() const { return all_; }
  const std::shared_ptr<Channel>& local_ptr() const { return local_; }

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

  /// Returns every rank's bytes, indexed by rank. `what` names them in errors. Called outside World::run; collective
  /// over ranks.
  std::vector<std::string> all_gather(const std::string& value, const std::string& what);

  /// Records a failure when a worker has kept the others of its thread from running for longer than the time-out.
  void check_for_hogs() noexcept;

  /// Notes the latest collective of a local worker, for messages about this worker.
  void note(int local_index, const Header& header);
  /// Registers a collective that the worker starts within World::run, until it finishes it. Called by the worker
  /// itself.
  void begin(int local_index, const Channel* channel, const Header& header);
  void end(int local_index, const Channel* channel);
  /// Throws Error if the worker has unfinished collectives. Does nothing after a failure, which may be the reason for
  /// them.
  void require_all_finished(int local_index) const;
  /// "worker 3 (rank 0, host) last seen at layer 'bn1' step 4 (...)"
  std::string describe_worker(int local_index) const;
  /// "rank 2 (node3, workers 4-5) at layer 'bn1' step 4 (...)": this rank, in a collective.
  std::string describe_rank_at(const Header& header) const;

  /// Whether to print now that this rank waits for others: once per time-out, so that workers that wait for the same
  /// thing print it once.
  bool may_say_waiting() noexcept;
  /// Suppresses these messages: the creator of this world reports waits in terms of its own ranks.
  void keep_quiet() { said_waiting_s_ = std::numeric_limits<double>::infinity(); }

  /// Set during World::run.
  std::atomic<bool>& running() { return running_; }
  /// Marks a worker that has returned from the body, and will not join any more collectives in this run.
  void set_left(int local_index, bool left) { workers_[local_index].left.store(left); }
  bool has_left(int local_index) const { return workers_[local_index].left.load(); }

  /// Returns the channel of the range that contains this worker; null if the worker is alone in its range. All local
  /// workers must make the same calls; the n-th call of each worker refers to the same channels.
  std::shared_ptr<Channel> open(int local_index, const std::vector<IndexRange>& ranges);

 private:
  struct WorkerRecord {
    std::atomic<bool> left{false};
    int openings_made = 0;  // under opening_mutex_
    mutable std::mutex mutex;
    bool seen = false;
    Header last;
    std::vector<std::pair<const Channel*, Header>> under_way;
  };
  struct Opening {
    std::vector<std::shared_ptr<Channel>> channels;
    int to_fetch = 0;
  };

  std::vector<std::int64_t> sum_over_ranks(std::vector<std::int64_t> numbers, const std::string& what);
  std::vector<std::int64_t> sum_piece_over_ranks(std::vector<std::int64_t> numbers, const std::string& what);
  bool record(const std::exception_ptr& failure) noexcept;

  const Topology topology_;
  const double timeout_s_;
  const Reduction reduction_;
  std::unique_ptr<Transport> transport_;
  Crew crew_;
  std::vector<WorkerRecord> workers_;  // local workers
  std::shared_ptr<Channel> all_, local_;
  std::unique_ptr<Link> control_;  // between ranks; used outside World::run
  std::uint64_t control_calls_ = 0;

  std::atomic<double> said_waiting_s_{-std::numeric_limits<double>::infinity()};  // by the waiting clock
  std::atomic<bool> running_{false};
  std::atomic<bool> failed_{false};
  mutable std::mutex failure_mutex_;
  std::exception_ptr failure_;

  std::mutex opening_mutex_;
  std::map<int, Opening> openings_;
  int next_channel_;
};

inline constexpr double kLookForFailuresEvery_s = 1e-3;

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
