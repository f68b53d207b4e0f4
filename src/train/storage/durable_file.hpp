#pragma once

#include <sys/types.h>

#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace syncbn {

/// The system calls that change files, with their usual meaning (-1 and errno on failure), so that a test can make any
/// one of them fail.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  virtual int open(const std::string& path, int flags, mode_t mode);
  virtual ssize_t write(int fd, const void* bytes, std::size_t count);
  virtual int fsync(int fd);
  virtual int close(int fd);
  virtual int rename(const std::string& from, const std::string& to);
  virtual int mkdir(const std::string& path);
  virtual int unlink(const std::string& path);
  virtual int rmdir(const std::string& path);
};

/// The folder a path lies in ("." without a slash).
std::string parent_of(const std::string& path);

/// Commits a file so that after a crash at any point the new content or the old one is there, never a mix: write
/// NAME.tmp, fsync it, rename, fsync the folder. Throws Error naming path and errno's text; leaves no debris.
void write_file_durably(FileSystem& files, const std::string& path, std::span<const std::byte> bytes);
void write_file_durably(const std::string& path, std::span<const std::byte> bytes);

/// Throws Error where write_file_durably() could not so much as begin, so that this is known before long work.
void require_writable(const std::string& path);

/// Creates the folder if it is missing (its parent must exist) and makes the entry durable. Throws Error.
void make_folder_durably(FileSystem& files, const std::string& path);

/// Makes what a file holds durable (its name is the folder's), if it is there. Throws Error.
void sync_file(FileSystem& files, const std::string& path);

/// Makes the names in a folder durable. Throws Error.
void sync_folder(FileSystem& files, const std::string& path);

/// Throws Error(failure): what could not be done to `path`, errno's text, and what to do about it.
[[noreturn]] void throw_io_error(const std::string& action, const std::string& path, int error);

/// Whether there is something of this name. Throws Error where that cannot be told.
bool path_exists(const std::string& path);

/// The names in a folder, in no order; none where there is no such folder. Throws Error.
std::vector<std::string> names_in(const std::string& path);

/// Adds bytes at the end of a file, which is created where it is missing. Throws Error.
void append_to_file(const std::string& path, const std::string& bytes);

/// A regular file's content; Error(bad_data) when it is absent, not a regular file or larger than `limit` bytes.
std::vector<std::byte> read_file(const std::string& path, std::size_t limit);

/// The same for text; write_text() makes it durable.
void write_text(const std::string& path, const std::string& text);
std::string read_text(const std::string& path, std::size_t limit = std::numeric_limits<std::size_t>::max());

/// The bytes as text.
std::string text_of(std::span<const std::byte> bytes);

/// Closes a file descriptor that is only read or locked.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace syncbn
