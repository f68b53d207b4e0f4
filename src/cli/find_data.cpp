#include "cli/find_data.hpp"

#include "data/catalog/folders.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn::cli {

std::optional<std::string> find_data(const std::string& kind, const std::string& path) {
  const DatasetFacts& facts = facts_of(kind);
  try {
    locate_files(facts, path, facts.test_files);
    return locate_files(facts, path, facts.train_files).front().parent_path().string();
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace syncbn::cli
