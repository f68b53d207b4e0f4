#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace syncbn {

/// One official file of a public data set.
struct RemoteFile {
  std::string name;  ///< the name that readers expect, or a .tar.gz that `download` unpacks into such files
  std::string url;
  std::uint64_t bytes = 0;  ///< 0 = unknown
  std::string md5;          ///< hex
  std::string content_md5;  ///< hex, of the unpacked file, whatever its compression; empty = unknown
};
struct RemoteDataset {
  std::string kind;    ///< mnist, fashion-mnist, cifar10, cifar100
  std::string folder;  ///< under the data root
  std::string about;   ///< one line: what, size, licence
  std::vector<RemoteFile> files;
};
/// The public data sets. Their addresses are the official ones, or $SYNCBN_DATA_MIRROR/<folder>/<name> if that variable
/// was set when this was first called.
const std::vector<RemoteDataset>& remote_datasets();

/// The folder where `data get` puts files and the readers look: $SYNCBN_DATA, else $XDG_CACHE_HOME/syncbn, else
/// ~/.cache/syncbn.
std::string data_root();

/// Fetches one file into `folder`, even if it is already there (see `check`). Resumes NAME.part; retries; verifies the
/// MD5 before renaming NAME.part to NAME; deletes it on a mismatch. The .tar.gz of the CIFAR sets are then unpacked and
/// removed, which leaves their data files in `folder`. `progress` may be empty; it is called often, with bytes (total 0
/// = unknown). Throws Error(unavailable) on network failure, naming URL and remedy; Error(bad_data) on a checksum
/// mismatch; Error(failure) if the folder cannot be written.
void download(const RemoteFile& file, const std::string& folder,
              const std::function<void(std::uint64_t done, std::uint64_t total)>& progress);

enum class FileState { ok, missing, altered };
/// Compares a file on disk with its official checksum, or, if it is stored raw or with another compression (.gz, .xz),
/// with that of its content. For a .tar.gz it compares the files unpacked from it: `ok` then means that the readers
/// accept them. `reason` (may be null) receives one line if there is more to say than `ok`.
FileState check(const RemoteDataset& dataset, const RemoteFile& file, const std::string& folder, std::string* reason);

}  // namespace syncbn
