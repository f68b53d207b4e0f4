#pragma once

#include <cstddef>
#include <cstdint>

#include "syncbn/comm/communicator.hpp"

namespace syncbn::detail {

enum class Element : std::uint8_t { byte, f32, f64, i64 };

std::size_t size_of(Element type);
const char* name_of(Element type);
const char* name_of(Reduce op);

/// left[i] = left[i] op right[i]. NaN wins in max and min, so that it reaches everybody.
void combine(std::byte* left, const std::byte* right, std::int64_t count, Element type, Reduce op);

/// into[i] = left[i] + right[i].
void add(float* into, const float* left, const float* right, std::int64_t count);

}  // namespace syncbn::detail
