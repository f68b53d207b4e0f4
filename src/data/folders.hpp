#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "data/catalog.hpp"

namespace syncbn {

/// The remedy that ends messages about a bad file of this set.
std::string remedy_for(const DatasetFacts& facts);

/// The first folder that holds all of `files` (raw, .gz or .xz): `path` and its subfolders of the set's usual names,
/// or, if `path` is empty, these subfolders of $SYNCBN_DATA and of the cache. Throws Error(bad_data) listing the
/// places.
std::vector<std::filesystem::path> locate_files(const DatasetFacts& facts, const std::string& path,
                                                std::span<const std::string> files);

/// How to unpack the files of a set once, a line for the user, if they are packed and so large that unpacking them at
/// every start is worth a word; else empty, as for kinds that have no such files.
std::string unpacking_hint(const std::string& kind, const std::string& path);

/// $XDG_CACHE_HOME/syncbn, else ~/.cache/syncbn.
std::filesystem::path cache_root();

}  // namespace syncbn
