#include "train/folder_lock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "syncbn/core/error.hpp"
#include "train/environment.hpp"

namespace syncbn {

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) throw_io_error("create folder", path, error.value());
}

std::shared_ptr<const Descriptor> lock_folder(const std::string& path) {
  const std::string name = path + "/" + kLockName;
  auto file = std::make_shared<const Descriptor>(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (file->get() < 0) throw_io_error("create", name, errno);
  if (::flock(file->get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK) throw_io_error("lock", name, errno);
    std::string holder = read_text(name, 4096);
    if (holder.empty()) holder = "another process";
    throw Error(fmt::format("{} is in use by {}; wait until it ends, or choose another folder", path, holder),
                ExitCode::usage);
  }
  const std::string me = fmt::format("process {} on {}", ::getpid(), host_name());
  if (::ftruncate(file->get(), 0) < 0 || ::pwrite(file->get(), me.data(), me.size(), 0) < 0) {
    throw_io_error("write", name, errno);
  }
  return file;
}

}  // namespace syncbn
