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

std::byte* map(const Name& name, std::size_t bytes, bool create) {
  const int file = shm_open(name.data(), O_RDWR | (create ? O_CREAT | O_EXCL : 0), 0600);
  if (file < 0) return nullptr;
  // Pages that are not there would only be missed later, by a signal.
  const bool there = !create || posix_fallocate(file, 0, static_cast<off_t>(bytes)) == 0;
  void* data = there ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
  close(file);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

}  // namespace

SharedMemory::SharedMemory(MPI_Comm comm, std::size_t bytes) : bytes_(bytes) {
  int rank = 0;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  Name name{};
  if (rank == 0) {
    name = fresh_name();
    data_ = map(name, bytes, true);
  }
  check_mpi(MPI_Bcast(name.data(), static_cast<int>(name.size()), MPI_CHAR, 0, comm), "MPI_Bcast");
  if (rank != 0) data_ = map(name, bytes, false);
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
