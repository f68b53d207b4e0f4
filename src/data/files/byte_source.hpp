#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace syncbn {

/// Immutable bytes, shared by copies of this object.
struct SharedBytes {
  std::shared_ptr<const void> owner;
  std::span<const std::uint8_t> bytes;
};
SharedBytes share(std::vector<std::uint8_t> bytes);
/// Maps a file of `bytes` bytes; returns nothing if it has another size or cannot be mapped.
std::optional<SharedBytes> map_file(const std::filesystem::path& path, std::uint64_t bytes);

/// A stream of the bytes of a file, unpacked if its name ends in .gz or .xz. Uses a fixed amount of memory (64 KiB,
/// plus at most 128 MiB for the dictionary of an .xz), whatever the file claims about itself.
class ByteSource {
 public:
  /// `remedy` ends every error message: what the user can do about a bad file.
  static std::unique_ptr<ByteSource> open(const std::filesystem::path& path, const std::string& remedy);
  /// Opens a file without unpacking it.
  static std::unique_ptr<ByteSource> open_packed(const std::filesystem::path& path, const std::string& remedy);
  virtual ~ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  /// Fills `out`; returns fewer bytes only at the end. Throws Error(bad_data) on a malformed stream.
  std::size_t read(std::span<std::uint8_t> out);
  /// Fills `out` or throws Error(bad_data). `expected`: the total size, for the message.
  void read_exactly(std::span<std::uint8_t> out, std::uint64_t expected);
  /// Returns the remaining bytes, which must be `bytes` many; throws Error(bad_data) otherwise. A raw file is mapped,
  /// so that the ranks of a machine share one copy (if it is truncated later, reading ends the process by SIGBUS); for
  /// a packed file, the existing unpacked copy is mapped (see UnpackedCopy). Memory for unpacked bytes grows as they
  /// come, not as a header claims.
  SharedBytes rest(std::uint64_t bytes);
  /// Number of (unpacked) bytes read so far.
  std::uint64_t position() const { return position_; }
  /// Throws Error(bad_data) made of the file, `what` and the remedy.
  [[noreturn]] void fail(const std::string& what) const;

 protected:
  ByteSource(std::filesystem::path path, std::string remedy) : path_(std::move(path)), remedy_(std::move(remedy)) {}
  /// Reads up to out.size() bytes; returns 0 at the end.
  virtual std::size_t read_some(std::span<std::uint8_t> out) = 0;
  /// Maps the result of rest(), at `position` and longer than 0; returns nothing if files cannot be mapped.
  virtual std::optional<SharedBytes> map_rest(std::uint64_t bytes) = 0;
  /// Receives the bytes that rest() has read because there was nothing to map.
  virtual void keep_rest(std::span<const std::uint8_t>) {}

 private:
  void expect_end();

  std::filesystem::path path_;
  std::string remedy_;
  std::uint64_t position_ = 0;
};

/// Finds folder/name, folder/name.gz or folder/name.xz, the first that exists in this order.
std::optional<std::filesystem::path> find_file(const std::filesystem::path& folder, const std::string& name);

}  // namespace syncbn
