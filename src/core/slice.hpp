#pragma once

#include <cstdint>

namespace syncbn {

/// A range of consecutive items: samples, values of a message or a gradient, bytes of a file.
struct Slice {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

}  // namespace syncbn
