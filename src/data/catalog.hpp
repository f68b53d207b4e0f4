#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "syncbn/data/download.hpp"

namespace syncbn {

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
