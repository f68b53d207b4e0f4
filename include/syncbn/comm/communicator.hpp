#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

namespace syncbn {

enum class Reduce { sum, max, min };

/// Names one collective in every message and error: which layer (or activity) it serves and in which step.
/// All members must pass the same tag; the transports compare it.
struct Tag {
  std::string_view layer;  ///< "layer1.0.bn1", "metrics", ...; the first 39 bytes are compared
  std::int64_t step = 0;
};

namespace detail {
class Channel;
}

/// One worker's membership in a group of workers: its rank among the members (a worker index, not an MPI rank), their
/// number, and the collectives. Independent of threads, ranks and MPI. A small value; copies refer to the same
/// membership. Every call marked *collective* must be made by every member, in the same order, each from its own
/// worker's thread. Reductions combine the members' partials along one fixed binary tree over worker indices (left +
/// right), so the result has the same bits however the workers are spread over processes - unless the world uses
/// Reduction::native. If members disagree (operation, reduce operation, count, type, layer, step), or one does not
/// arrive within the world's time-out, all of them throw Error; the world is unusable afterwards. Outside World::run,
/// it works only if each rank has one worker; otherwise it throws Error(usage).
class Communicator {
 public:
  Communicator() = default;  ///< a world of one: rank 0 of 1, every collective a no-op

  int rank() const;
  int size() const;

  /// In-place all-reduce. Collective. Blocks; other workers of this thread run meanwhile.
  void all_reduce(std::span<double> values, Reduce op, const Tag& tag) const;
  void all_reduce(std::span<float> values, Reduce op, const Tag& tag) const;
  void all_reduce(std::span<std::int64_t> values, Reduce op, const Tag& tag) const;

  /// The same in two halves, with other work in between. `values` must stay untouched until finish(). Collective. At
  /// most one may be under way per communicator and worker, and none when the function of World::run returns. If
  /// `complete` is given, that of the rank's first member is called once per rank, on any member's thread, when all
  /// members have called this, before any of them returns from finish().
  void start_all_reduce(std::span<double> values, Reduce op, const Tag& tag,
                        std::function<void()> complete = nullptr) const;
  void finish_all_reduce() const;

  /// Copies `bytes` from member `root` to all. Sizes must agree. Collective.
  void broadcast(std::span<std::byte> bytes, int root, const Tag& tag) const;
  void barrier(const Tag& tag) const;  ///< Collective.

  /// Seconds this worker has spent waiting for others in this communicator's collectives.
  double waited_seconds() const;

  /// One member's place in a channel; made by Worker.
  Communicator(std::shared_ptr<detail::Channel> channel, int worker) : channel_(std::move(channel)), worker_(worker) {}

 private:
  std::shared_ptr<detail::Channel> channel_;  // null: a world of one
  int worker_ = 0;
};

}  // namespace syncbn
