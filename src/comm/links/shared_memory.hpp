#pragma once

#include <mpi.h>

#include <cstddef>
#include <utility>

#include "comm/order/shards.hpp"

namespace syncbn::detail {

/// Memory mapped by several processes of one machine. Its name is removed once all have mapped it, so nothing is left
/// behind however they end, and unmapping involves no other process (unlike an MPI window).
class SharedMemory {
 public:
  /// Collective over `comm`. If one rank cannot get it (little room in /dev/shm, or ranks that do not share one), it is
  /// empty on all of them. `at`: an address in a reserved range, which stays reserved if mapping fails; null: any
  /// address. Each rank allocates its share of the pages, in order, so that they lie near it.
  SharedMemory(MPI_Comm comm, std::size_t bytes, std::byte* at = nullptr);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory();

  explicit operator bool() const { return data_ != nullptr; }
  std::byte* data() const { return data_; }
  /// Gives up ownership; the memory stays mapped.
  std::byte* release() { return std::exchange(data_, nullptr); }

 private:
  void map(int file, std::byte* at, const Slice& own);
  void unmap(std::byte* at);

  std::byte* data_ = nullptr;
  std::size_t bytes_;
};

}  // namespace syncbn::detail
