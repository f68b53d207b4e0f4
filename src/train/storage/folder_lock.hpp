#pragma once

#include <string>

#include "train/storage/durable_file.hpp"

namespace syncbn {

inline constexpr const char* kLockName = ".lock";

/// Creates a folder and its parents where they are missing. Throws Error.
void make_folder(const std::string& path);

/// A folder's FOLDER/.lock, held by this process.
class FolderLock {
 public:
  /// Throws Error(usage) naming the process that holds it, if another does.
  explicit FolderLock(const std::string& folder);
  /// Throws Error if the folder has been removed, or taken over by a process that has made it anew: the lock belongs to
  /// a file, but files are written by name.
  void require_held() const;

 private:
  std::string folder_, name_;
  Descriptor file_;
};

}  // namespace syncbn
