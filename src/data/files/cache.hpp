#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>

#include "data/files/byte_source.hpp"
#include "data/files/part_file.hpp"

namespace syncbn {

/// The cache folder: $XDG_CACHE_HOME/syncbn, else ~/.cache/syncbn.
std::filesystem::path cache_root();

/// The unpacked contents of a packed file, in a file of its own below cache_root(), followed by a checksum: the ranks
/// of a machine unpack it once, map it, and find it at the next start. It may be removed at any time, even while in
/// use. Another packed file (by path, size, inode and time of change) has another copy.
class UnpackedCopy {
 public:
  /// Looks for the copy of the `bytes` bytes that follow the first `begin`. If there is none yet, or a damaged one, the
  /// first process to ask makes it, and the others wait for it, at most 20 s.
  UnpackedCopy(const std::filesystem::path& packed, std::uint64_t begin, std::uint64_t bytes);
  ~UnpackedCopy();

  const std::optional<SharedBytes>& bytes() const { return bytes_; }
  /// Makes the copy, if that is up to this object. A copy that cannot be made is no error.
  void keep(std::span<const std::uint8_t> bytes);

 private:
  std::filesystem::path path_;
  std::optional<SharedBytes> bytes_;
  std::unique_ptr<PartFile> part_;  // set if this object makes the copy
};

}  // namespace syncbn
