#include "comm/links/shared_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <utility>

#include "comm/links/mpi_handles.hpp"
#include "core/page.hpp"

namespace syncbn::detail {

namespace {

using Name = std::array<char, 64>;

Name fresh_name() {
  Name name{};
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  fmt::format_to_n(name.data(), name.size() - 1, "/syncbn-{}-{}", getpid(), now);
  return name;
}

/// Allocates the pages for a range of the file: without this, a lack of memory would only show later, as a signal.
bool fill(int file, const Slice& bytes) {
  int code = 0;
  do {
    code = bytes.count == 0 ? 0 : posix_fallocate(file, bytes.begin, bytes.count);
  } while (code == EINTR);
  return code == 0;
}

/// Creates an empty file of this length; returns its descriptor, or -1.
int create(const Name& name, std::size_t bytes) {
  const int file = shm_open(name.data(), O_RDWR | O_CREAT | O_EXCL, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) == 0) return file;
  close(file);
  return -1;
}

}  // namespace

SharedMemory::SharedMemory(MPI_Comm comm, std::size_t bytes, std::byte* at) : bytes_(bytes) {
  int rank = 0, ranks = 1, file = -1;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm, &ranks), "MPI_Comm_size");
  Name name{};
  if (rank == 0) {
    name = fresh_name();
    file = create(name, bytes);
  }
  check_mpi(MPI_Bcast(name.data(), static_cast<int>(name.size()), MPI_CHAR, 0, comm), "MPI_Bcast");
  if (rank != 0) file = shm_open(name.data(), O_RDWR, 0600);
  const bool opened = everywhere(comm, file >= 0);
  if (rank == 0) shm_unlink(name.data());
  if (opened)
    map(file, at, shard_of(static_cast<std::int64_t>(bytes), rank, ranks, static_cast<std::int64_t>(page_bytes())));
  if (file >= 0) close(file);
  if (!opened || everywhere(comm, data_ != nullptr)) return;
  unmap(at);
}

void SharedMemory::map(int file, std::byte* at, const Slice& own) {
  if (!fill(file, own)) return;
  void* data = mmap(at, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), file, 0);
  if (data != MAP_FAILED) data_ = static_cast<std::byte*>(data);
}

/// Keeps reserved addresses reserved: a hole could be filled by another mapping.
void SharedMemory::unmap(std::byte* at) {
  if (at)
    mmap(at, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  else if (data_)
    munmap(data_, bytes_);
  data_ = nullptr;
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

SharedMemory::~SharedMemory() {
  if (data_) munmap(data_, bytes_);
}

}  // namespace syncbn::detail
