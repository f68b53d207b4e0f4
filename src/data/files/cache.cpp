#include "data/files/cache.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "core/console.hpp"

namespace syncbn {
namespace fs = std::filesystem;

namespace {

// Limits of waiting for a process that unpacks, or has been stopped: it is reported after kSilence, given up after
// kPatience. Batch systems kill what does not end 30 s after SIGTERM.
constexpr auto kPatience = std::chrono::seconds(20), kSilence = std::chrono::seconds(10);
constexpr auto kNap = std::chrono::milliseconds(10);

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path part_of(const fs::path& path) {
  return path.string() + ".part";
}

/// Returns a name that differs from that of any other content; empty if the file cannot be examined.
std::string name_of_copy(const fs::path& packed, std::uint64_t begin, std::uint64_t bytes) {
  struct stat info {};
  std::error_code failed;
  const fs::path absolute = fs::canonical(packed, failed);
  if (failed || ::stat(absolute.c_str(), &info) != 0) return "";
  const std::string identity = fmt::format("{} {} {} {}.{:09} {} {}", absolute.string(), info.st_ino, info.st_size,
                                           info.st_mtim.tv_sec, info.st_mtim.tv_nsec, begin, bytes);
  return fmt::format("{}-{:016x}", absolute.stem().string(), XXH3_64bits(identity.data(), identity.size()));
}

XXH64_hash_t checksum_of(std::span<const std::uint8_t> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

/// Maps a copy; returns nothing if there is none. A damaged one is removed.
std::optional<SharedBytes> map_copy(const fs::path& path, std::uint64_t bytes) {
  XXH64_hash_t checksum = 0;
  std::optional<SharedBytes> copy = map_file(path, bytes + sizeof checksum);
  if (!copy) return {};
  std::memcpy(&checksum, copy->bytes.data() + bytes, sizeof checksum);
  copy->bytes = copy->bytes.first(bytes);
  if (checksum_of(copy->bytes) == checksum) return copy;
  std::error_code ignored;
  fs::remove(path, ignored);
  return {};
}

}  // namespace

fs::path cache_root() {
  if (const auto cache = environment("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "syncbn";
  if (const auto home = environment("HOME"); !home.empty()) return fs::path(home) / ".cache" / "syncbn";
  return fs::temp_directory_path() / "syncbn";
}

UnpackedCopy::UnpackedCopy(const fs::path& packed, std::uint64_t begin, std::uint64_t bytes) {
  if (environment("XDG_CACHE_HOME").empty() && environment("HOME").empty()) return;  // others may write to /tmp
  const std::string name = name_of_copy(packed, begin, bytes);
  if (name.empty()) return;
  try {
    path_ = cache_root() / "unpacked" / name;
    fs::create_directories(path_.parent_path());
    const auto start = std::chrono::steady_clock::now();
    for (bool silent = true; !(bytes_ = map_copy(path_, bytes)); std::this_thread::sleep_for(kNap)) {
      if ((part_ = PartFile::open(part_of(path_)))) return;
      const auto waited = std::chrono::steady_clock::now() - start;
      if (waited > kPatience) return;
      if (silent && waited > kSilence) {
        write_stderr(fmt::format("syncbn: waits for another process that unpacks {} (it has locked {})\n",
                                 packed.string(), part_of(path_).string()));
        silent = false;
      }
    }
  } catch (const std::exception&) {  // copies cannot be written, for example on a read-only file system
  }
}

UnpackedCopy::~UnpackedCopy() {
  if (!part_ || !part_->is_locked()) return;
  std::error_code ignored;
  fs::remove(part_of(path_), ignored);
}

void UnpackedCopy::keep(std::span<const std::uint8_t> bytes) {
  if (!part_ || !part_->is_locked()) return;
  try {
    part_->clear();
    part_->append(bytes.data(), bytes.size());
    const XXH64_hash_t checksum = checksum_of(bytes);
    part_->append(&checksum, sizeof checksum);
    part_->sync();
    fs::rename(part_of(path_), path_);
    part_.reset();
  } catch (const std::exception&) {  // the disk is full, for example
  }
}

}  // namespace syncbn
