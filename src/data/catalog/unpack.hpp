#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/catalog/catalog.hpp"

namespace syncbn {

/// Unpacks `members` of a .tar.gz into `folder`, each under its bare name whatever folder it has in the archive; skips
/// the rest. Throws Error(bad_data) if one is missing, is no plain file or has another size; nothing half-written
/// stays.
void unpack(const std::filesystem::path& archive, const std::vector<ArchiveMember>& members,
            const std::filesystem::path& folder);

}  // namespace syncbn
