#include "data/files/part_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "syncbn/core/error.hpp"

namespace syncbn {

PartFile::PartFile(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}

PartFile::~PartFile() {
  if (fd_ >= 0) ::close(fd_);
}

std::unique_ptr<PartFile> PartFile::open(const std::filesystem::path& path) {
  constexpr int kAttempts = 10;
  for (int attempt = 1;; ++attempt) {
    std::unique_ptr<PartFile> part(
        new PartFile(path, ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644)));
    if (part->fd_ < 0) part->fail("be opened");
    const bool locked = ::flock(part->fd_, LOCK_EX | LOCK_NB) == 0;
    if (!locked && errno == EWOULDBLOCK) return nullptr;
    const bool named = part->has_its_name();  // otherwise its previous owner has completed or removed it
    part->locked_ = locked && named;
    if (named || attempt == kAttempts) return part;
  }
}

/// Whether the name still refers to the open file.
bool PartFile::has_its_name() const {
  struct stat mine {
  }, named{};
  return ::fstat(fd_, &mine) == 0 && ::stat(path_.c_str(), &named) == 0 && mine.st_dev == named.st_dev &&
         mine.st_ino == named.st_ino;
}

std::uint64_t PartFile::size() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) fail("be looked at");
  return static_cast<std::uint64_t>(info.st_size);
}

void PartFile::clear() {
  if (::ftruncate(fd_, 0) != 0) fail("be emptied");
}

void PartFile::append(const void* data, std::size_t n) {
  const char* from = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t written = ::write(fd_, from, n);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("be written");
    from += written;
    n -= static_cast<std::size_t>(written);
  }
}

void PartFile::sync() {
  if (::fsync(fd_) != 0) fail("be synced");
}

void PartFile::fail(const char* what) const {
  throw Error(fmt::format("{} cannot {} ({}); check the folder's permissions and space", path_.string(), what,
                          std::strerror(errno)));
}

}  // namespace syncbn
