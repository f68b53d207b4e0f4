#include "train/storage/durable_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "syncbn/core/error.hpp"

namespace syncbn {

int FileSystem::open(const std::string& path, int flags, mode_t mode) {
  return ::open(path.c_str(), flags | O_CLOEXEC, mode);
}
ssize_t FileSystem::write(int fd, const void* bytes, std::size_t count) {
  return ::write(fd, bytes, count);
}
int FileSystem::fsync(int fd) {
  return ::fsync(fd);
}
int FileSystem::close(int fd) {
  return ::close(fd);
}
int FileSystem::rename(const std::string& from, const std::string& to) {
  return std::rename(from.c_str(), to.c_str());
}
int FileSystem::mkdir(const std::string& path) {
  return ::mkdir(path.c_str(), 0777);
}
int FileSystem::unlink(const std::string& path) {
  return ::unlink(path.c_str());
}
int FileSystem::rmdir(const std::string& path) {
  return ::rmdir(path.c_str());
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

namespace {

const char* remedy(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return "free some space there, or choose another folder";
    case EROFS:
    case EACCES:
    case EPERM:
      return "make the folder writable, or choose another";
    case ENOENT:
    case ENOTDIR:
      return "create its folder, or choose another";
    default:
      return "check the disk, or choose another folder";
  }
}

// A signal may interrupt any of these calls without anything having failed.
template <class Call>
auto retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Returns what failed, with errno set, or nullptr.
const char* write_and_sync(FileSystem& files, int fd, std::span<const std::byte> bytes) {
  constexpr std::size_t kChunk = std::size_t{1} << 30;  // Linux writes no more than 2 GiB at once
  while (!bytes.empty()) {
    const ssize_t n = retry([&] { return files.write(fd, bytes.data(), std::min(bytes.size(), kChunk)); });
    if (n == 0) errno = ENOSPC;
    if (n <= 0) return "write";
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return retry([&] { return files.fsync(fd); }) < 0 ? "fsync" : nullptr;
}

}  // namespace

void throw_io_error(const std::string& action, const std::string& path, int error) {
  throw Error(fmt::format("cannot {} {}: {}; {}", action, path, std::generic_category().message(error), remedy(error)));
}

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

void sync_file(FileSystem& files, const std::string& path) {
  const int fd = retry([&] { return files.open(path, O_RDONLY, 0); });
  if (fd < 0 && errno == ENOENT) return;
  if (fd < 0) throw_io_error("open", path, errno);
  const int synced = retry([&] { return files.fsync(fd); });
  const int error = errno;
  files.close(fd);
  if (synced < 0) throw_io_error("fsync", path, error);
}

void sync_folder(FileSystem& files, const std::string& path) {
  const int fd = retry([&] { return files.open(path, O_RDONLY | O_DIRECTORY, 0); });
  if (fd < 0) throw_io_error("open folder", path, errno);
  const int synced = retry([&] { return files.fsync(fd); });
  const int error = errno;
  files.close(fd);
  // Some network file systems have no fsync for folders; their renames are durable by themselves.
  if (synced < 0 && error != EINVAL) throw_io_error("fsync folder", path, error);
}

void make_folder_durably(FileSystem& files, const std::string& path) {
  if (files.mkdir(path) < 0 && errno != EEXIST) throw_io_error("create folder", path, errno);
  sync_folder(files, parent_of(path));
}

void write_file_durably(FileSystem& files, const std::string& path, std::span<const std::byte> bytes) {
  const std::string temporary = path + ".tmp";
  const int fd = retry([&] { return files.open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0666); });
  if (fd < 0) throw_io_error("create", temporary, errno);
  const char* failed = write_and_sync(files, fd, bytes);
  int error = errno;
  if (files.close(fd) < 0 && !failed) {
    failed = "close";
    error = errno;
  }
  if (!failed && files.rename(temporary, path) < 0) {
    failed = "rename";
    error = errno;
  }
  if (failed) {
    files.unlink(temporary);
    throw_io_error(failed, path, error);
  }
  sync_folder(files, parent_of(path));
}

void write_file_durably(const std::string& path, std::span<const std::byte> bytes) {
  FileSystem files;
  write_file_durably(files, path, bytes);
}

void require_writable(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::file_status there = std::filesystem::symlink_status(path, ignored);
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there))
    throw Error(fmt::format("{} is not a regular file; choose another name", path), ExitCode::usage);
  FileSystem files;
  const std::string probe = fmt::format("{}.{}", path, ::getpid());  // which no other process writes
  const int fd = retry([&] { return files.open(probe, O_WRONLY | O_CREAT, 0666); });
  if (fd < 0) throw_io_error("create", path, errno);
  files.close(fd);
  files.unlink(probe);
}

bool path_exists(const std::string& path) {
  std::error_code error;
  const bool there = std::filesystem::exists(path, error);
  if (error) throw_io_error("look for", path, error.value());
  return there;
}

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  if (error && error != std::errc::no_such_file_or_directory) throw_io_error("list", path, error.value());
  return names;
}

void append_to_file(const std::string& path, const std::string& bytes) {
  // O_NONBLOCK: a pipe under this name must not block.
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666));
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) < 0) throw_io_error("open", path, errno);
  if (!S_ISREG(info.st_mode)) throw Error(fmt::format("{} is not a regular file; remove it", path));
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = retry([&] { return ::write(file.get(), bytes.data() + done, bytes.size() - done); });
    if (n <= 0) throw_io_error("write", path, n < 0 ? errno : ENOSPC);
    done += static_cast<std::size_t>(n);
  }
}

void write_text(const std::string& path, const std::string& text) {
  write_file_durably(path, std::as_bytes(std::span(text)));
}

std::string read_text(const std::string& path, std::size_t limit) {
  return text_of(read_file(path, limit));
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::byte> read_file(const std::string& path, std::size_t limit) {
  const auto refuse = [&path](const std::string& why) -> void {
    throw Error(fmt::format("{}: {}", path, why), ExitCode::bad_data);
  };
  // O_NONBLOCK: a pipe under this name must not block.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) refuse(std::generic_category().message(errno));
  struct stat info {};
  if (::fstat(file.get(), &info) < 0) refuse(std::generic_category().message(errno));
  if (!S_ISREG(info.st_mode)) refuse("not a regular file");
  if (static_cast<std::uint64_t>(info.st_size) > limit) {
    refuse(fmt::format("{} bytes, at most {} expected", info.st_size, limit));
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(info.st_size));
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = retry([&] { return ::read(file.get(), bytes.data() + done, bytes.size() - done); });
    if (n < 0) refuse(std::generic_category().message(errno));
    if (n == 0) refuse("the file shrank while it was read");
    done += static_cast<std::size_t>(n);
  }
  return bytes;
}

}  // namespace syncbn
