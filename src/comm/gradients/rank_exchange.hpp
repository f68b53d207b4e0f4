#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "comm/gradients/gradients.hpp"
#include "comm/rank_context.hpp"
#include "core/slice.hpp"

namespace syncbn::detail {

/// Exchanges the ranks' sums of gradients, bucket by bucket, on a thread of its own, which waits for the network. It
/// has a transport of its own too, so that long messages do not delay those of the normalization layers.
class RankExchange {
 public:
  /// The sums and the result are in `gradients`, which is not complete(). Collective over ranks.
  RankExchange(RankContext& context, Gradients& gradients, std::span<const Slice> buckets);
  ~RankExchange();
  RankExchange(const RankExchange&) = delete;
  RankExchange& operator=(const RankExchange&) = delete;

  /// Starts the exchange of a bucket, once this rank has summed it and the buckets before it have been exchanged.
  void hand_over(int bucket, const Header& header);
  /// Whether all buckets of this round, counted from 1, have been exchanged.
  bool exchanged(std::uint64_t round) const;

 private:
  void work();
  std::optional<Header> take(int bucket);
  void exchange(int bucket, const Header& header);

  RankContext& context_;
  Gradients& gradients_;
  const std::vector<Slice> buckets_;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<Link> link_;
  std::atomic<std::uint64_t> exchanged_{0};  // buckets, since the start
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::optional<Header>> handed_over_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace syncbn::detail
