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

/// Memory shared by all ranks of a machine, so that all their workers can access it and it exists only once. take()
/// only reserves; commit() maps everything at once. Each rank gets private memory if /dev/shm is too small or if the
/// ranks of some machine are not consecutive.
class MachineMemory {
 public:
  /// `share`: false gives each rank private memory in any case. Called outside World::run.
  explicit MachineMemory(const World& world, bool share = true);
  ~MachineMemory();  ///< frees what take() returned
  MachineMemory(const MachineMemory&) = delete;
  MachineMemory& operator=(const MachineMemory&) = delete;

  /// Reserves `bytes`, zeroed, aligned to 64 bytes; the address differs between ranks. Not to be accessed before
  /// commit(). All ranks of a machine make the same calls in the same order. Throws Error after commit().
  std::byte* take(std::size_t bytes);
  /// Maps what was reserved. Called once. Throws Error, on all ranks alike, when one of them gets no memory or has
  /// reserved another size than the first rank of its machine. Called outside World::run; collective over all ranks.
  void commit();

  /// The consecutive workers that share this memory, all of this machine or of this rank; known after commit().
  int first_worker() const { return workers_.first; }
  int workers() const { return workers_.size(); }
  /// The ranks of these workers.
  const detail::IndexRange& ranks() const { return ranks_; }
  bool is_shared() const { return ranks_.size() > 1; }
  /// Whether the ranks of some machine should share memory but could not. The same on all ranks.
  bool lacks_room() const { return lacks_room_; }

  /// Waits until all workers that share the memory are here. Collective over them.
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
  const bool may_be_shared_;  // whether ranks share memory on some machine; the same on all ranks
  detail::IndexRange ranks_, workers_;
  std::byte* data_ = nullptr;
  std::size_t reserved_ = 0;
  std::size_t taken_ = 0;
  bool committed_ = false, lacks_room_ = false;
};

}  // namespace syncbn
