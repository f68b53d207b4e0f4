#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "comm/order/topology.hpp"

namespace syncbn::detail {

class Channel;
class RankContext;

/// Opens the channels of a rank's workers.
class Channels {
 public:
  /// Channel numbers are message tags. Tag 0 carries failures.
  static constexpr int kAll = 1, kLocal = 2, kControl = 3, kFirstFree = 4;

  explicit Channels(RankContext& context);
  const std::shared_ptr<Channel>& all() const { return all_; }
  const std::shared_ptr<Channel>& local() const { return local_; }
  /// Returns the channel of the range that contains this worker; null if the worker is alone in its range. All local
  /// workers must make the same calls; the n-th call of each worker refers to the same channels.
  std::shared_ptr<Channel> open(int local_index, const std::vector<IndexRange>& ranges);

 private:
  struct Opening {
    std::vector<std::shared_ptr<Channel>> channels;
    int to_fetch = 0;
  };

  RankContext& context_;
  std::shared_ptr<Channel> all_, local_;
  std::mutex mutex_;
  std::vector<int> calls_;  // per local worker
  std::map<int, Opening> openings_;
  int next_id_ = kFirstFree;
};

}  // namespace syncbn::detail
