#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/catalog/catalog.hpp"

namespace syncbn {

/// Unpacks `members` of a .tar.gz into `folder`, each under its bare name whatever its folder in the archive; skips the
/// rest. Throws Error(bad_data) if one is missing, is not a plain file or has another size; leaves no partially written
/// file.
void unpack(const std::filesystem::path& archive, const std::vector<ArchiveMember>& members,
            const std::filesystem::path& folder);

}  // namespace syncbn
