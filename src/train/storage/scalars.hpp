#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>

namespace syncbn {

/// Single figures of a checkpoint, by name.
using Scalars = std::map<std::string, std::string>;

// Each throws Error(bad_data) naming the scalar if it is missing, not such a number or out of bounds.

const std::string& text_scalar(const Scalars& scalars, const std::string& name);
std::int64_t whole_scalar(const Scalars& scalars, const std::string& name, std::int64_t least,
                          std::int64_t most = std::numeric_limits<std::int64_t>::max());
/// Written by write_exact().
double real_scalar(const Scalars& scalars, const std::string& name, double least, double most);

/// Throws that error.
[[noreturn]] void refuse_scalar(const Scalars& scalars, const std::string& name);

}  // namespace syncbn
