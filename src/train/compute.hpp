#pragma once

#include <string>

namespace syncbn {

/// What computes in this process: "cpu: AVX2, oneDNN 2.6.3".
std::string describe_compute();

}  // namespace syncbn
