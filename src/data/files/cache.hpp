#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "data/files/part_file.hpp"

namespace syncbn {

/// $XDG_CACHE_HOME/syncbn, else ~/.cache/syncbn.
std::filesystem::path cache_root();

/// What a packed file holds, unpacked, in a file of its own below cache_root(): the ranks of a machine unpack it once,
/// map it, and find it at the next start. It may be removed at any time, also while it is used. Another packed file (by
/// path, size, inode and time of change) has another copy.
class UnpackedCopy {
 public:
  /// Of the `bytes` bytes behind the first `begin`. If there is none yet, the first to ask is to make it, and the
  /// others wait for that, a minute at most.
  UnpackedCopy(const std::filesystem::path& packed, std::uint64_t begin, std::uint64_t bytes);
  ~UnpackedCopy();

  bool is_there() const;
  const std::filesystem::path& path() const { return path_; }
  /// Makes it, if that was left to this one. Where it cannot be made there is none, which is no error.
  void keep(std::span<const std::uint8_t> bytes);

 private:
  std::filesystem::path path_;
  std::uint64_t bytes_;
  std::unique_ptr<PartFile> part_;  // this one makes it
};

}  // namespace syncbn
