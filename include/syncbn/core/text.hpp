#pragma once

#include <string>
#include <vector>

namespace syncbn {

/// The candidate closest to `word` for "did you mean" messages, or "" if none is close: at most two edits (one for
/// words of up to three letters), or a third of the longer word. An edit inserts, deletes or replaces a letter or swaps
/// two neighbours; upper and lower case are the same. The first of equals wins.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace syncbn
