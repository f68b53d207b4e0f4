#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace syncbn {

/// One official file of a public data set.
struct RemoteFile {
  std::string name;  ///< as the readers expect it
  std::string url;
  std::uint64_t bytes = 0;  ///< 0 = unknown
  std::string md5;          ///< hex
};
struct RemoteDataset {
  std::string kind;    ///< mnist, fashion-mnist, cifar10, cifar100
  std::string folder;  ///< under the data root
  std::string about;   ///< one line: what, size, licence
  std::vector<RemoteFile> files;
};
const std::vector<RemoteDataset>& remote_datasets();

/// Where `data get` puts files and the readers look: $SYNCBN_DATA, else $XDG_CACHE_HOME/syncbn, else ~/.cache/syncbn.
std::string data_root();

/// Fetches one file into `folder` (resumes NAME.part, verifies the MD5 before renaming; a mismatch deletes it).
/// Throws Error(unavailable) on network failure, naming URL and remedy; Error(bad_data) on a checksum mismatch.
void download(const RemoteFile& file, const std::string& folder,
              const std::function<void(std::uint64_t done, std::uint64_t total)>& progress);

enum class FileState { ok, missing, altered };
/// Compares a file on disk with its official checksum. A file whose official form is .gz may also lie there raw or as
/// .xz: `ok` then means that the readers accept it (well-formed); `altered` carries a reason.
FileState check(const RemoteDataset& dataset, const RemoteFile& file, const std::string& folder, std::string* reason);

}  // namespace syncbn
