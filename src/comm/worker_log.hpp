#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/links/header.hpp"
#include "comm/order/topology.hpp"

namespace syncbn::detail {

class Channel;

/// Where the workers of this rank are, for messages about them. Workers are given by their local index; what changes a
/// worker's record is called by itself.
class WorkerLog {
 public:
  explicit WorkerLog(const Topology& topology);

  /// To be called for each worker before World::run starts it.
  void enter(int worker);
  /// The worker has returned from the body, and will not join any more collectives in this run.
  void leave(int worker) { records_[worker].left.store(true); }
  bool has_left(int worker) const { return records_[worker].left.load(); }

  /// The worker starts a collective, and finishes it.
  void begin(int worker, const Channel* channel, const Header& header);
  void end(int worker, const Channel* channel);
  /// Throws Error if the worker has not finished a collective that it has started within this run.
  void require_all_finished(int worker) const;
  /// "worker 3 (rank 0, host) last seen at layer 'bn1' step 4 (...)"
  std::string describe(int worker) const;

 private:
  struct Record {
    std::atomic<bool> left{false};
    std::vector<std::pair<const Channel*, Header>> under_way;
    mutable std::mutex mutex;
    std::optional<Header> last;
  };
  std::string name(int worker) const;

  const Topology& topology_;
  std::vector<Record> records_;
};

}  // namespace syncbn::detail
