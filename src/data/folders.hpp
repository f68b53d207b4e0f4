#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace syncbn {

/// Files of one public data set and the names its folder goes by.
struct SetLayout {
  std::string kind;                      ///< mnist, fashion-mnist, cifar10, cifar100
  std::vector<std::string> folders;      ///< under a data root; the first is the one `syncbn data get` uses
  std::vector<std::string> train_files;  ///< IDX: images, labels
  std::vector<std::string> test_files;
};
/// Layout of `kind`; throws Error(usage) for an unknown one.
const SetLayout& layout_of(const std::string& kind);

/// The remedy that ends messages about a bad file of this set.
std::string remedy_for(const SetLayout& layout);

/// The first folder that holds all of `files` (raw, .gz or .xz): `path` and its subfolders of the set's usual names,
/// or, if `path` is empty, these subfolders of $SYNCBN_DATA and of the cache. Throws Error(bad_data) listing the
/// places.
std::vector<std::filesystem::path> locate_files(const SetLayout& layout, const std::string& path,
                                                std::span<const std::string> files);

/// How to unpack the files of a set once, a line for the user, if they are packed and so large that unpacking them at
/// every start is worth a word; else empty, as for kinds that have no such files.
std::string unpacking_hint(const std::string& kind, const std::string& path);

/// $XDG_CACHE_HOME/syncbn, else ~/.cache/syncbn.
std::filesystem::path cache_root();

}  // namespace syncbn
