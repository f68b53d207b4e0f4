#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/catalog/catalog.hpp"

namespace syncbn {

/// Returns the remedy that ends messages about a bad file of this set.
std::string remedy_for(const DatasetFacts& facts);

/// Finds the first folder that holds all of `files` (raw, .gz or .xz): `path` and its subfolders with the set's usual
/// names, or, if `path` is empty, these subfolders of $SYNCBN_DATA and of the cache. Throws Error(bad_data) listing the
/// places.
std::vector<std::filesystem::path> locate_files(const DatasetFacts& facts, const std::string& path,
                                                std::span<const std::string> files);

}  // namespace syncbn
