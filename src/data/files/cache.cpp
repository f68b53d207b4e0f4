#include "data/files/cache.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

namespace syncbn {
namespace fs = std::filesystem;

namespace {

constexpr auto kPatience = std::chrono::minutes(1);  // with somebody who unpacks, or has been stopped
constexpr auto kNap = std::chrono::milliseconds(10);

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path part_of(const fs::path& path) {
  return path.string() + ".part";
}

/// Differs from that of any other content; empty if the file cannot be looked at.
std::string name_of_copy(const fs::path& packed, std::uint64_t begin, std::uint64_t bytes) {
  struct stat info {};
  std::error_code failed;
  const fs::path absolute = fs::canonical(packed, failed);
  if (failed || ::stat(absolute.c_str(), &info) != 0) return "";
  const std::string identity = fmt::format("{} {} {} {}.{:09} {} {}", absolute.string(), info.st_ino, info.st_size,
                                           info.st_mtim.tv_sec, info.st_mtim.tv_nsec, begin, bytes);
  return fmt::format("{}-{:016x}", absolute.stem().string(), XXH3_64bits(identity.data(), identity.size()));
}

}  // namespace

fs::path cache_root() {
  if (const auto cache = environment("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "syncbn";
  if (const auto home = environment("HOME"); !home.empty()) return fs::path(home) / ".cache" / "syncbn";
  return fs::temp_directory_path() / "syncbn";
}

UnpackedCopy::UnpackedCopy(const fs::path& packed, std::uint64_t begin, std::uint64_t bytes) : bytes_(bytes) {
  if (environment("XDG_CACHE_HOME").empty() && environment("HOME").empty()) return;  // others may write to /tmp
  const std::string name = name_of_copy(packed, begin, bytes);
  if (name.empty()) return;
  try {
    path_ = cache_root() / "unpacked" / name;
    fs::create_directories(path_.parent_path());
    for (const auto give_up = std::chrono::steady_clock::now() + kPatience;
         !is_there() && std::chrono::steady_clock::now() < give_up; std::this_thread::sleep_for(kNap)) {
      part_ = PartFile::open(part_of(path_));
      if (part_) return;
    }
  } catch (const std::exception&) {  // no place for copies, such as a file system that may only be read
  }
}

UnpackedCopy::~UnpackedCopy() {
  if (!part_ || !part_->is_locked()) return;
  std::error_code ignored;
  fs::remove(part_of(path_), ignored);
}

bool UnpackedCopy::is_there() const {
  std::error_code failed;
  return !path_.empty() && fs::file_size(path_, failed) == bytes_ && !failed;
}

void UnpackedCopy::keep(std::span<const std::uint8_t> bytes) {
  if (!part_ || !part_->is_locked()) return;
  try {
    part_->clear();
    part_->append(bytes.data(), bytes.size());
    part_->sync();
    fs::rename(part_of(path_), path_);
    part_.reset();
  } catch (const std::exception&) {  // the disk is full, for example
  }
}

}  // namespace syncbn
