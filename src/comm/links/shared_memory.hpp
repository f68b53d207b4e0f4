#pragma once

#include <mpi.h>

#include <cstddef>
#include <utility>

#include "comm/order/shards.hpp"

namespace syncbn::detail {

/// Memory that several processes of one machine have mapped. It has no name any more once they have it, so nothing is
/// left behind however they end, and letting go of it needs nobody else (which an MPI window would).
class SharedMemory {
 public:
  /// Collective over `comm`. Empty afterwards, on all ranks alike, if one of them could not get it: little room in
  /// /dev/shm, or ranks that do not share one.
  /// `at`: where it shall be, at reserved addresses, which stay so without it; null: anywhere. Each rank provides for
  /// its share of the pages, in order, so that they lie near it.
  SharedMemory(MPI_Comm comm, std::size_t bytes, std::byte* at = nullptr);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory();

  explicit operator bool() const { return data_ != nullptr; }
  std::byte* data() const { return data_; }
  /// It stays mapped.
  std::byte* release() { return std::exchange(data_, nullptr); }

 private:
  void map(int file, std::byte* at, const Slice& own);
  void unmap(std::byte* at);

  std::byte* data_ = nullptr;
  std::size_t bytes_;
};

}  // namespace syncbn::detail
