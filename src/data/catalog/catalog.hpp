#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/catalog/download.hpp"
#include "data/catalog/image_files.hpp"
#include "data/dataset.hpp"

namespace syncbn {

/// What is known of a data set before any of its files is read.
struct DatasetFacts {
  enum class Format { other, idx, cifar };
  std::string kind;  ///< a value of data.kind
  Format format = Format::other;
  std::int64_t channels = 3, side = 0;  ///< of all images; side 0: each has its own
  /// How many classes each label byte of an image tells apart; the last one is the label kept. Empty: the folder tells.
  std::vector<int> label_classes;
  std::int64_t train_images = 0, test_images = 0;  ///< 0: the folder tells
  /// Per channel (one value serves all), of the training pixels in 0..1, as commonly used.
  std::vector<float> mean, stddev;

  // Of the public sets:
  std::vector<std::string> folders = {};  ///< under a data root; the first is the one `syncbn data get` uses
  std::vector<std::string> train_files = {}, test_files = {};  ///< idx: images, labels
  std::string about = {};                                      ///< one line: what, size, licence
  std::vector<RemoteFile> remote = {};                         ///< at their official addresses

  const std::vector<std::string>& files_of(Split split) const {
    return split == Split::train ? train_files : test_files;
  }
};

/// The one table of data sets. Names, downloads, formats, sizes and normalization come from it.
const std::vector<DatasetFacts>& dataset_facts();
std::vector<std::string> dataset_kinds();
/// Throws Error(usage) for an unknown kind.
const DatasetFacts& facts_of(const std::string& kind);

/// Format of the official files of a CIFAR set.
CifarFormat cifar_format(const DatasetFacts& facts, Split split);

/// The public data sets, at their official addresses or, unless `mirror` is empty, at mirror/folder/name.
std::vector<RemoteDataset> catalog(const std::string& mirror);

/// A file that the readers need out of an archive. Its size is known to the byte.
struct ArchiveMember {
  std::string name;
  std::uint64_t bytes = 0;
};
/// What to unpack from the official archive `name`; empty if it is no archive.
std::vector<ArchiveMember> archive_members(const std::string& name);

}  // namespace syncbn
