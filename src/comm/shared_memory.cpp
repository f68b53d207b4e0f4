#include "comm/shared_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "comm/mpi_handles.hpp"

namespace syncbn::detail {

namespace {

using Name = std::array<char, 64>;

Name fresh_name() {
  Name name{};
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  fmt::format_to_n(name.data(), name.size() - 1, "/syncbn-{}-{}", getpid(), now);
  return name;
}

/// The share of `rank` of so many bytes, in whole pages.
std::pair<off_t, off_t> pages_of(int rank, int ranks, std::size_t bytes) {
  constexpr std::size_t kPage = 4096;
  const std::size_t pages = (bytes + kPage - 1) / kPage;
  const auto begin = [&](int r) {
    return static_cast<off_t>(
        std::min(bytes, pages * static_cast<std::size_t>(r) / static_cast<std::size_t>(ranks) * kPage));
  };
  return {begin(rank), begin(rank + 1) - begin(rank)};
}

std::byte* map(const Name& name, std::size_t bytes, std::byte* at, int rank, int ranks) {
  const int file = shm_open(name.data(), O_RDWR, 0600);
  if (file < 0) return nullptr;
  // Pages that are not there would only be missed later, by a signal.
  const auto [begin, count] = pages_of(rank, ranks, bytes);
  const bool there = count == 0 || posix_fallocate(file, begin, count) == 0;
  const int flags = MAP_SHARED | (at ? MAP_FIXED : 0);
  void* data = there ? mmap(at, bytes, PROT_READ | PROT_WRITE, flags, file, 0) : MAP_FAILED;
  close(file);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

/// An empty file of this length.
bool create(const Name& name, std::size_t bytes) {
  const int file = shm_open(name.data(), O_RDWR | O_CREAT | O_EXCL, 0600);
  if (file < 0) return false;
  const bool made = ftruncate(file, static_cast<off_t>(bytes)) == 0;
  close(file);
  return made;
}

}  // namespace

SharedMemory::SharedMemory(MPI_Comm comm, std::size_t bytes, std::byte* at) : bytes_(bytes) {
  int rank = 0, ranks = 1;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm, &ranks), "MPI_Comm_size");
  Name name{};
  bool created = false;
  if (rank == 0) {
    name = fresh_name();
    created = create(name, bytes);
  }
  check_mpi(MPI_Bcast(name.data(), static_cast<int>(name.size()), MPI_CHAR, 0, comm), "MPI_Bcast");
  if (rank != 0 || created) data_ = map(name, bytes, at, rank, ranks);
  int everybody = data_ != nullptr;
  const int code = MPI_Allreduce(MPI_IN_PLACE, &everybody, 1, MPI_INT, MPI_MIN, comm);
  if (rank == 0) shm_unlink(name.data());
  check_mpi(code, "MPI_Allreduce");
  if (everybody || !data_) return;
  munmap(data_, bytes_);
  data_ = nullptr;
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

SharedMemory::~SharedMemory() {
  if (data_) munmap(data_, bytes_);
}

}  // namespace syncbn::detail
