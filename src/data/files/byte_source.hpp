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

/// Bytes that never change, shared by copies of this.
struct SharedBytes {
  std::shared_ptr<const void> owner;
  std::span<const std::uint8_t> bytes;
};
SharedBytes share(std::vector<std::uint8_t> bytes);
/// A file of `bytes` bytes, mapped; nothing if it has another size or cannot be mapped.
std::optional<SharedBytes> map_file(const std::filesystem::path& path, std::uint64_t bytes);

/// The bytes of a file, unpacked on the way if its name ends in .gz or .xz. Holds a fixed amount of memory (64 KiB,
/// plus at most 128 MiB for the dictionary of an .xz), whatever the file claims about itself.
class ByteSource {
 public:
  /// `remedy` ends every error message: what the user can do about a bad file.
  static std::unique_ptr<ByteSource> open(const std::filesystem::path& path, const std::string& remedy);
  /// The bytes as they lie in the file, packed or not.
  static std::unique_ptr<ByteSource> open_packed(const std::filesystem::path& path, const std::string& remedy);
  virtual ~ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  /// Fills `out`; returns fewer bytes only at the end. Throws Error(bad_data) on a malformed stream.
  std::size_t read(std::span<std::uint8_t> out);
  /// Fills `out` or throws Error(bad_data): `expected` is the size of the whole, for the message.
  void read_exactly(std::span<std::uint8_t> out, std::uint64_t expected);
  /// The rest, which must be `bytes` long, or Error(bad_data). A file is mapped, so that the ranks of a machine hold it
  /// once (if it is cut short later, reading it ends the process by SIGBUS); of a packed one, the copy that has been
  /// unpacked before (see UnpackedCopy). What is unpacked takes memory as it comes, not as a header claims.
  SharedBytes rest(std::uint64_t bytes);
  /// (Unpacked) bytes read so far.
  std::uint64_t position() const { return position_; }
  /// Throws Error(bad_data): file, `what`, remedy.
  [[noreturn]] void fail(const std::string& what) const;

 protected:
  ByteSource(std::filesystem::path path, std::string remedy) : path_(std::move(path)), remedy_(std::move(remedy)) {}
  /// Up to out.size() bytes; 0 at the end.
  virtual std::size_t read_some(std::span<std::uint8_t> out) = 0;
  /// What rest() gives, at `position` and longer than 0; nothing where files cannot be mapped.
  virtual std::optional<SharedBytes> map_rest(std::uint64_t bytes) = 0;
  /// Is told what rest() has read where there was nothing to map.
  virtual void keep_rest(std::span<const std::uint8_t>) {}

 private:
  void expect_end();

  std::filesystem::path path_;
  std::string remedy_;
  std::uint64_t position_ = 0;
};

/// folder/name, folder/name.gz or folder/name.xz, whichever lies there first in this order.
std::optional<std::filesystem::path> find_file(const std::filesystem::path& folder, const std::string& name);

}  // namespace syncbn
