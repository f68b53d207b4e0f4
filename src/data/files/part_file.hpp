#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

namespace syncbn {

/// A file that is being filled until it receives its final name; locked against other processes and threads that fill
/// the same file. Its contents remain if it is never completed.
class PartFile {
 public:
  /// Opens or creates it. Returns null if another owner has it. Throws Error if it cannot be opened.
  static std::unique_ptr<PartFile> open(const std::filesystem::path& path);
  ~PartFile();
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  /// False on file systems without locks: nothing prevents other writers.
  bool is_locked() const { return locked_; }
  /// These throw Error(failure) naming the file.
  std::uint64_t size() const;
  void clear();
  void append(const void* data, std::size_t n);
  void sync();

 private:
  PartFile(std::filesystem::path path, int fd);
  bool has_its_name() const;
  [[noreturn]] void fail(const char* what) const;

  const std::filesystem::path path_;
  const int fd_;
  bool locked_ = false;
};

}  // namespace syncbn
