#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace syncbn {

/// A fresh folder that goes away with the object. In memory where that is possible: tests that sync thousands of
/// files are about the order of calls, not about a disk.
class TempDir {
 public:
  TempDir() {
    const bool in_memory = ::access("/dev/shm", W_OK | X_OK) == 0;
    const std::filesystem::path root = in_memory ? "/dev/shm" : std::filesystem::temp_directory_path();
    std::string pattern = (root / "syncbn-test-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) ADD_FAILURE() << "cannot create " << pattern;
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void spit(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

}  // namespace syncbn
