#pragma once

#include <string>

namespace syncbn {

/// The name of this machine; "unknown" if the system does not tell it.
std::string host_name();

}  // namespace syncbn
