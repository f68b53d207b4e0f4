#include "data/catalog/folders.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdint>
#include <cstdlib>

#include "data/files/byte_source.hpp"
#include "data/files/cache.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace fs = std::filesystem;

namespace {

/// Returns $SYNCBN_DATA; empty if it is not set.
std::string given_root() {
  const char* root = std::getenv("SYNCBN_DATA");
  return root ? root : "";
}

/// All files of the set in `folder`, or the name of the first missing one.
struct Found {
  std::vector<fs::path> files;
  std::string missing;
};
Found find_all(const fs::path& folder, std::span<const std::string> names) {
  Found found;
  for (const auto& name : names) {
    const auto file = find_file(folder, name);
    if (!file) return {{}, name};
    found.files.push_back(*file);
  }
  return found;
}

std::vector<fs::path> candidates(const DatasetFacts& facts, const std::string& path) {
  std::vector<fs::path> roots;
  std::vector<fs::path> folders;
  if (!path.empty()) {
    folders.emplace_back(path);
    roots.emplace_back(path);
  } else {
    if (const auto root = given_root(); !root.empty()) roots.emplace_back(root);
    roots.push_back(cache_root());
  }
  for (const auto& root : roots)
    for (const auto& name : facts.folders) folders.push_back(root / name);
  return folders;
}

}  // namespace

std::string remedy_for(const DatasetFacts& facts) {
  return fmt::format("fetch it again: syncbn data get {}", facts.kind);
}

std::vector<fs::path> locate_files(const DatasetFacts& facts, const std::string& path,
                                   std::span<const std::string> files) {
  std::vector<std::string> looked;
  for (const auto& folder : candidates(facts, path)) {
    auto found = find_all(folder, files);
    if (!found.files.empty()) return found.files;
    std::error_code ignored;
    looked.push_back(fs::is_directory(folder, ignored)
                         ? fmt::format("{} (has no {}[.gz|.xz])", folder.string(), found.missing)
                         : fmt::format("{} (no such folder)", folder.string()));
  }
  throw Error(
      fmt::format("no {} found; looked in {}; fetch it: syncbn data get {}, or name its folder: data.path=FOLDER",
                  facts.kind, fmt::join(looked, ", "), facts.kind),
      ExitCode::bad_data);
}

std::string data_root() {
  if (const auto root = given_root(); !root.empty()) return root;
  return cache_root().string();
}

}  // namespace syncbn
