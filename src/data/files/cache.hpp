#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "data/files/byte_source.hpp"
#include "data/files/part_file.hpp"

namespace syncbn {

/// $XDG_CACHE_HOME/syncbn, else ~/.cache/syncbn.
std::filesystem::path cache_root();

/// What a packed file holds, unpacked, in a file of its own below cache_root(), with a checksum behind it: the ranks of
/// a machine unpack it once, map it, and find it at the next start. It may be removed at any time, also while it is
/// used. Another packed file (by path, size, inode and time of change) has another copy.
class UnpackedCopy {
 public:
  /// Of the `bytes` bytes behind the first `begin`. If there is none yet, or a damaged one, the first to ask is to make
  /// it, and the others wait for that, 20 s at most.
  UnpackedCopy(const std::filesystem::path& packed, std::uint64_t begin, std::uint64_t bytes);
  ~UnpackedCopy();

  const std::optional<SharedBytes>& bytes() const { return bytes_; }
  /// Makes it, if that was left to this one. Where it cannot be made there is none, which is no error.
  void keep(std::span<const std::uint8_t> bytes);

 private:
  std::filesystem::path path_;
  std::optional<SharedBytes> bytes_;
  std::unique_ptr<PartFile> part_;  // this one makes it
};

}  // namespace syncbn
