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

/// The sums of all groups of workers directly between and on their devices, in the order of the tree over a group's
/// workers. One object per rank. Members meet on the processors, without waiting for a device, so that whoever is
/// missing or on another path is noticed; what they bring is queued for the devices alone. Always ordered, also in a
/// world of Reduction::native.
class DeviceSums {
 public:
  /// Groups as Worker::group() makes them, or for 0 Worker::node_group(); at most `max_count` values at a time. Null
  /// where a group has workers of several ranks, and their devices cannot reach each other. Collective over ranks;
  /// called outside World::run.
  static std::unique_ptr<DeviceSums> make(World& world, int workers_per_group, std::shared_ptr<ExchangeDevice> device,
                                          std::int64_t max_count);

  /// The place of a worker in its group, whose communicator is given; this object must outlive it.
  std::unique_ptr<GroupSums> join(const Worker& worker, const Communicator& group);
  /// Whether sums go between the devices of several ranks. They must not be under way at the same time as other
  /// exchanges of devices: kernels that wait for other ranks can block each other, unless all ranks have started them
  /// in one order.
  bool between_ranks() const { return peers_ != nullptr; }
  /// By a worker that has failed, before it waits for its device: records the failure, then frees devices that wait for
  /// ranks which will not come. Of no other use afterwards.
  void give_up(const std::exception_ptr& failure) noexcept;

 private:
  /// A node of the tree over a group: the rank that brings it, and its row.
  struct Part {
    int rank;
    int row;
  };
  /// A group with workers of this rank. Rows: those of its local workers, then the nodes of the other ranks.
  struct Group {
    detail::IndexRange local;                       // members
    std::vector<std::pair<int, int>> here, across;  // rows to add, before and after the exchange with other ranks
    std::vector<Part> parts;
    std::vector<int> others;  // ranks with members
    int rows = 0, result = 0;
    // Two rounds are enough: when a worker brings its values of round s + 2, all have queued what reads those of s.
    std::array<double*, 2> values{};
    int mark = 0;  // behind the sum
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
  int first_mark_ = 0;  // of each local worker: what it brings is in its row
  std::vector<Group> groups_;
  std::mutex mutex_;  // the exchange's queue, and peers_
};

}  // namespace syncbn
