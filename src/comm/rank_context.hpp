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

/// How often a sleeping waiter looks at the clock and at failures.
inline constexpr auto kLookAround = std::chrono::milliseconds(20);

/// Time since a wait began, by the waiting clock, and its limit.
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

/// What the workers of one rank share: where everybody is, compute threads, the first failure, and the channels under
/// construction.
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

  /// Keeps the first failure, makes everybody else's waits end with Aborted and tells the other ranks. Whether this
  /// was the first.
  bool fail(const std::exception_ptr& failure) noexcept;
  /// Records the failure, then throws it. Always this way round: unwinding may have to wait for others.
  [[noreturn]] void fail_with(const Error& error);
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  void throw_if_failed() const;
  std::exception_ptr failure() const;
  /// Throws when another rank has announced its failure.
  void check_remote_failure();

  /// Every rank's bytes, by rank. `what` names them in errors. Outside of World::run; collective over ranks.
  std::vector<std::string> all_gather(const std::string& value, const std::string& what);

  /// Records a failure when a worker has kept the others of its thread from running for the time-out.
  void check_for_hogs() noexcept;

  /// What a local worker has called last, for messages about it.
  void note(int local_index, const Header& header);
  /// A collective that the worker has started within World::run, until it finishes it. By the worker itself.
  void begin(int local_index, const Channel* channel, const Header& header);
  void end(int local_index, const Channel* channel);
  /// Throws Error if the worker leaves one under way; not after a failure, which may be why.
  void require_all_finished(int local_index) const;
  /// "worker 3 (rank 0, host) last seen at layer 'bn1' step 4 (...)"
  std::string describe_worker(int local_index) const;

  /// Whether somebody may say that this rank waits for others: once while its workers wait for the same thing.
  bool may_say_waiting() noexcept;
  /// Nobody may: whoever started this world says it better.
  void keep_quiet() { said_waiting_s_ = std::numeric_limits<double>::infinity(); }

  /// Set during World::run.
  std::atomic<bool>& running() { return running_; }
  /// A worker that has returned from the body will not join any more collectives in this run.
  void set_left(int local_index, bool left) { workers_[local_index].left.store(left); }
  bool has_left(int local_index) const { return workers_[local_index].left.load(); }

  /// The channel of this worker among those of the given consecutive ranges; null when its range is just itself. All
  /// local workers must call it alike; the n-th call of each refers to the same channels.
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
  std::vector<WorkerRecord> workers_;  // local ones
  std::shared_ptr<Channel> all_, local_;
  std::unique_ptr<Link> control_;  // between ranks, outside of World::run
  std::uint64_t control_calls_ = 0;

  std::atomic<double> said_waiting_s_{-std::numeric_limits<double>::infinity()};  // when, by the waiting clock
  std::atomic<bool> running_{false};
  std::atomic<bool> failed_{false};
  mutable std::mutex failure_mutex_;
  std::exception_ptr failure_;

  std::mutex opening_mutex_;
  std::map<int, Opening> openings_;
  int next_channel_;
};

inline constexpr double kLookForFailuresEvery_s = 1e-3;

/// The wait of somebody on this rank for other ranks.
class RemoteWait {
 public:
  /// After `patience` times the usual limit it has been too long.
  RemoteWait(RankContext& context, double patience = 1);
  /// To be called again and again while the operation is not complete. Throws Error on time-out (`waiting` says who
  /// waits for what), or when another rank has announced its failure; Aborted when this rank has failed.
  void check(const Link& link, const std::function<std::string()>& waiting);
  /// The same where there is no link: `missing()` are the ranks, see Link::missing() and Link::hops().
  void check(const std::function<std::string()>& waiting, const std::function<std::string()>& missing, int hops = 0);
  double elapsed_s() const { return deadline_.elapsed_s(); }

 private:
  RankContext& context_;
  const double let_others_speak_s_;
  const Deadline deadline_;
  double looked_at_s_ = 0;
  double speak_at_s_;
};

/// Between runs ranks read data sets and checkpoints, some from slower disks than others.
inline constexpr double kSetUpPatience = 10;

/// How long a thread that waits for other ranks sleeps between two looks.
inline constexpr auto kRemoteNap = std::chrono::microseconds(50);

/// Goes on with an operation between ranks; true once it is complete. What it throws has been recorded.
bool advance(Link& link, RankContext& context);

/// advance() to the end, by a thread that has nothing else to do: yields at first, then sleeps in short naps.
void drive(Link& link, RankContext& context, const std::function<std::string()>& waiting, double patience = 1);

}  // namespace syncbn::detail
