#pragma once

#include <string>

namespace syncbn {

/// Returns an identifier of this build of the library: the hash that the linker gave it (GNU build ID), in hexadecimal;
/// empty if it has none.
std::string build_id();

}  // namespace syncbn
