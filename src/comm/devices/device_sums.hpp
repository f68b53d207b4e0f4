#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "comm/devices/exchange_device.hpp"
#include "comm/group_sums.hpp"
#include "comm/order/topology.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {

/// Sums over groups of workers, computed on their devices and exchanged directly between them, in the order of the tree
/// over a group's workers. One object per rank. Members first meet on the CPU, without waiting for a device, so that a
/// missing or mismatched member is detected; their values are then summed by the devices alone. Always ordered, even in
/// a world of Reduction::native.
class DeviceSums {
 public:
  /// Makes the sums of groups as Worker::group() makes them, or, for 0, Worker::node_group(); at most `max_count`
  /// values at a time. Null if a group spans several ranks whose devices cannot reach each other. Collective over
  /// ranks; called outside World::run.
  static std::unique_ptr<DeviceSums> make(World& world, int workers_per_group, std::shared_ptr<ExchangeDevice> device,
                                          std::int64_t max_count);

  /// Makes the sums of one worker, whose group's communicator is given; this object must outlive them.
  std::unique_ptr<GroupSums> join(const Worker& worker, const Communicator& group);
  /// Whether sums go between the devices of several ranks. They must not overlap with other exchanges between devices:
  /// kernels that wait for other ranks can block each other unless all ranks start them in the same order.
  bool between_ranks() const { return peers_ != nullptr; }
  /// Called by a worker that has failed, before it waits for its device: records the failure, then frees devices that
  /// wait for ranks that will not come. The object cannot be used afterwards.
  void give_up(const std::exception_ptr& failure) noexcept;

 private:
  /// A node of the tree over a group: the rank that holds it, and its row.
  struct Part {
    int rank;
    int row;
  };
  /// A group with workers of this rank. Rows: those of its local workers, then the nodes of the other ranks.
  struct Group {
    detail::IndexRange local;                       // members
    std::vector<std::pair<int, int>> here, across;  // rows to add, before and after the exchange with other ranks
    std::vector<Part> parts;
    std::vector<int> others;  // other ranks with members
    int rows = 0, result = 0;
    // Two buffers are enough: when a worker brings its values of round s + 2, all have queued their reads of round s.
    std::array<double*, 2> values{};
    int mark = 0;  // placed behind the sum
  };
  class Seat;

  DeviceSums(std::shared_ptr<detail::RankContext> context, const std::vector<detail::IndexRange>& all_groups,
             std::shared_ptr<ExchangeDevice> device, std::int64_t max_count);
  Group plan(const detail::IndexRange& members) const;
  void add_up(const Group& group, int round, std::int64_t count);
  void exchange(const Group& group, double* rows, std::int64_t count);
  void check_peers();

  const std::shared_ptr<detail::RankContext> context_;
  const std::shared_ptr<ExchangeDevice> device_;
  std::unique_ptr<DevicePeers> peers_;  // null: no group has workers of several ranks
  const std::int64_t stride_;
  int first_mark_ = 0;  // one per local worker: set when its values are in its row
  std::vector<Group> groups_;
  std::mutex mutex_;  // guards the exchange's queue and peers_
};

}  // namespace syncbn
