#pragma once

#include <string>

namespace syncbn {

/// Of this machine; "unknown" where the system does not say.
std::string host_name();

}  // namespace syncbn
