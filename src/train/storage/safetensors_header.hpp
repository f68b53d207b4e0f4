#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/storage/safetensors.hpp"

namespace syncbn {

inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // of the format

/// Where a tensor's bytes lie behind the header.
struct TensorPlace {
  std::size_t begin = 0, end = 0;
  StoredTensor* tensor = nullptr;
};

/// The order in which the reference implementation writes types (descending), or -1 for an unknown type.
int dtype_rank(std::string_view dtype);

/// Bytes of a tensor; nullopt for an unknown type, a negative extent or an overflow.
std::optional<std::uint64_t> tensor_bytes(std::string_view dtype, const std::vector<std::int64_t>& shape);

/// Reads the JSON header: fills names, types, shapes and metadata of `file`, and returns where each tensor's data lies,
/// in ascending order without holes from 0 to data_bytes. Throws Error(bad_data).
std::vector<TensorPlace> parse_header(std::string_view header, std::size_t data_bytes, const std::string& origin,
                                      SafetensorsFile& file);

}  // namespace syncbn
