#pragma once

#include <string>

namespace syncbn {

/// A JSON object with what a result may depend on besides the configuration: host, processor, operating system,
/// versions, and the launcher's and libraries' environment variables. Names nobody and holds no secrets.
std::string environment_json();

}  // namespace syncbn
