#include "fuzz/target.hpp"

#include <stdlib.h>

#include <filesystem>
#include <stdexcept>

#include "support/temp_dir.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::fuzz {

void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(what);
}

std::vector<std::string> parts(std::string_view input, std::size_t n) {
  std::vector<std::string> all(n);
  for (std::size_t i = 0; i < n && !input.empty(); ++i) {
    const std::size_t end = i + 1 < n ? std::min(input.find('\0'), input.size()) : input.size();
    all[i] = input.substr(0, end);
    input.remove_prefix(std::min(end + 1, input.size()));
  }
  return all;
}

std::pair<std::string, std::vector<std::string>> text_and_overrides(std::string_view input, std::size_t n) {
  std::vector<std::string> overrides = parts(input, n);
  std::string text = std::move(overrides.front());
  overrides.erase(overrides.begin());
  std::erase(overrides, "");
  return {std::move(text), std::move(overrides)};
}

std::string joined(const std::vector<std::string>& parts) {
  std::string input = parts.front();
  for (std::size_t i = 1; i < parts.size(); ++i) input += '\0' + parts[i];
  return input;
}

const std::string& folder() {
  static const TempDir dir;
  return dir.path();
}

std::string file(const std::string& name, std::string_view bytes) {
  const std::string path = folder() + "/" + name;
  if (bytes.empty()) {
    std::filesystem::remove(path);
  } else {
    spit(path, std::string(bytes));
  }
  return path;
}

}  // namespace syncbn::fuzz

using namespace syncbn;

/// Puts the seeds into the folders on the command line, where libFuzzer finds them.
int LLVMFuzzerInitialize(int* argc, char*** argv) {
  ::setenv("XDG_CACHE_HOME", fuzz::folder().c_str(), 1);
  const std::vector<std::string> seeds = fuzz::seeds();
  for (int a = 1; a < *argc; ++a) {
    if (!std::filesystem::is_directory((*argv)[a])) continue;
    for (std::size_t i = 0; i < seeds.size(); ++i) spit((*argv)[a] + ("/seed-" + std::to_string(i)), seeds[i]);
  }
  return 0;
}

/// An exception of another kind goes on, and ends the program.
int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    fuzz::read({reinterpret_cast<const char*>(data), size});
  } catch (const Error& e) {
    fuzz::require(std::string_view(e.what()).find('\n') == std::string_view::npos, "an error of several lines");
  }
  return 0;
}
