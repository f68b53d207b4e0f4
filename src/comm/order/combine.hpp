#pragma once

#include <cstddef>
#include <cstdint>

#include "syncbn/comm/communicator.hpp"

namespace syncbn::detail {

enum class Element : std::uint8_t { byte, f32, f64, i64 };

std::size_t size_of(Element type);
const char* name_of(Element type);
const char* name_of(Reduce op);

/// into[i] = left[i] op right[i]; `into` may be `left` or `right`. NaN wins in max and min, so that it reaches
/// everybody.
void combine(std::byte* into, const std::byte* left, const std::byte* right, std::int64_t count, Element type,
             Reduce op);

}  // namespace syncbn::detail
