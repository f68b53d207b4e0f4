#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace syncbn {

/// Lower-case hexadecimal SHA-256.
std::string sha256(std::span<const std::byte> bytes);

/// What commits a checkpoint: which files belong to it and what they must contain.
struct Manifest {
  struct File {
    std::uint64_t bytes = 0;
    std::string sha256;
    bool operator==(const File&) const = default;
  };
  std::int64_t step = 0;
  bool best = false;
  std::map<std::string, File> files;
  std::map<std::string, std::string> scalars;

  /// JSON whose first key is the hash of all the text behind it.
  std::string text() const;
  /// Throws Error(bad_data) unless the hash and every key are right.
  static Manifest parse(const std::string& text, const std::string& origin);
};

inline constexpr std::size_t kMaxManifestBytes = 256 * 1024;

}  // namespace syncbn
