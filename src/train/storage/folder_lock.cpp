#include "train/storage/folder_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "core/host_name.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) throw_io_error("create folder", path, error.value());
}

FolderLock::FolderLock(const std::string& folder)
    : folder_(folder),
      name_(folder + "/" + kLockName),
      file_(::open(name_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (file_.get() < 0) throw_io_error("create", name_, errno);
  if (::flock(file_.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK) throw_io_error("lock", name_, errno);
    std::string holder = read_text(name_, 4096);
    if (holder.empty()) holder = "another process";
    throw Error(fmt::format("{} is in use by {}; wait until it ends, or choose another folder", folder_, holder),
                ExitCode::usage);
  }
  const std::string me = fmt::format("process {} on {}", ::getpid(), host_name());
  if (::ftruncate(file_.get(), 0) < 0 || ::pwrite(file_.get(), me.data(), me.size(), 0) < 0) {
    throw_io_error("write", name_, errno);
  }
}

void FolderLock::require_held() const {
  struct stat held {};
  struct stat named {};
  const bool there = ::stat(name_.c_str(), &named) == 0;
  if (!there && errno != ENOENT && errno != ENOTDIR) throw_io_error("look for", name_, errno);
  if (there && ::fstat(file_.get(), &held) == 0 && held.st_dev == named.st_dev && held.st_ino == named.st_ino) return;
  throw Error(
      fmt::format("{} has been removed, or taken over by another run; nothing more is written there: start "
                  "again with another folder",
                  folder_));
}

}  // namespace syncbn
