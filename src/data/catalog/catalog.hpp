#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/catalog/download.hpp"
#include "data/catalog/image_files.hpp"
#include "data/dataset.hpp"

namespace syncbn {

/// The properties of a data set that are known before any of its files is read.
struct DatasetFacts {
  enum class Format { other, idx, cifar };
  std::string kind;  ///< a value of data.kind
  Format format = Format::other;
  std::int64_t channels = 3, side = 0;  ///< of all images; side 0: sizes differ
  /// Number of classes of each label byte of an image; the last byte is the label kept. Empty: determined by the
  /// folder.
  std::vector<int> label_classes;
  std::int64_t train_images = 0, test_images = 0;  ///< 0: determined by the folder
  /// Of the training pixels in 0..1, per channel (a single value applies to all), as commonly used.
  std::vector<float> mean, stddev;

  // For the public sets:
  std::vector<std::string> folders = {};  ///< under a data root; the first is the one `syncbn data get` uses
  std::vector<std::string> train_files = {}, test_files = {};  ///< idx: images, labels
  std::string about = {};                                      ///< one line: what, size, licence
  std::vector<RemoteFile> remote = {};                         ///< at their official addresses

  const std::vector<std::string>& files_of(Split split) const {
    return split == Split::train ? train_files : test_files;
  }
};

/// The table of all data sets, the only source of names, downloads, formats, sizes and normalization.
const std::vector<DatasetFacts>& dataset_facts();
std::vector<std::string> dataset_kinds();
/// Returns the facts of a kind. Throws Error(usage) if it is unknown.
const DatasetFacts& facts_of(const std::string& kind);

/// Format of the official files of a CIFAR set.
CifarFormat cifar_format(const DatasetFacts& facts, Split split);

/// The public data sets, at their official addresses or, unless `mirror` is empty, at mirror/folder/name.
std::vector<RemoteDataset> catalog(const std::string& mirror);

/// An archive member that the readers need, with its exact size in bytes.
struct ArchiveMember {
  std::string name;
  std::uint64_t bytes = 0;
};
/// The members to unpack from the official archive `name`; empty if it is not an archive.
std::vector<ArchiveMember> archive_members(const std::string& name);

}  // namespace syncbn
