#pragma once

#include <string>

namespace syncbn {

/// Tells this build of the library from every other: the hash that the linker gave it (GNU build ID), in hexadecimal;
/// empty where there is none.
std::string build_id();

}  // namespace syncbn
