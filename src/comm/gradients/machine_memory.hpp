#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "comm/order/topology.hpp"
#include "syncbn/comm/world.hpp"

namespace syncbn {

namespace detail {
class RankContext;
}

/// Memory that the ranks of a machine have in common: what each of them would keep a copy of is there once, and all
/// their workers have it within reach. What one object is asked for is planned first and becomes real all at once; if
/// there is no room for all of it in /dev/shm, and where the ranks of some machine are no neighbours, each rank has its
/// own.
class MachineMemory {
 public:
  /// `share`: false gives each rank its own in any case. Called outside World::run.
  explicit MachineMemory(const World& world, bool share = true);
  ~MachineMemory();  ///< what take() gave ends with it
  MachineMemory(const MachineMemory&) = delete;
  MachineMemory& operator=(const MachineMemory&) = delete;

  /// Plans room for `bytes`, zeroed, aligned to 64 bytes, at an address of each rank's own. Not to be touched before
  /// commit(). All ranks of a machine take the same in the same order. Throws Error after commit().
  std::byte* take(std::size_t bytes);
  /// Once. Throws Error, on all ranks alike, when one of them does not get the memory at all, or has planned something
  /// else than its neighbours. Outside World::run; collective over all ranks.
  void commit();

  /// The consecutive workers that have this memory in common: all of this machine, or of this rank; as of commit().
  int first_worker() const { return workers_.first; }
  int workers() const { return workers_.size(); }
  /// Their ranks.
  const detail::IndexRange& ranks() const { return ranks_; }
  bool is_shared() const { return ranks_.size() > 1; }
  /// Whether the ranks of some machine should have it in common, but could not. The same on all ranks.
  bool lacks_room() const { return lacks_room_; }

  /// Waits until all of them are here. Collective over them.
  class Barrier {
   public:
    /// Collective over all workers, whether they share memory or not.
    Barrier(const MachineMemory& memory, const Worker& worker);
    void wait(const Tag& tag) const;

   private:
    const Worker& worker_;
    Communicator team_;
  };

 private:
  void set_ranks(const detail::IndexRange& ranks);
  void require_room(const std::vector<std::string>& answers, std::size_t bytes) const;

  const std::shared_ptr<detail::RankContext> context_;
  const bool may_be_shared_;  // on some machine; the same everywhere
  detail::IndexRange ranks_, workers_;
  std::byte* data_ = nullptr;
  std::size_t reserved_ = 0;
  std::size_t taken_ = 0;
  bool committed_ = false, lacks_room_ = false;
};

}  // namespace syncbn
