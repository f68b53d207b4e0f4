#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "data/dataset.hpp"

namespace syncbn {

/// The JPEG or PNG picture in `bytes` as [3, height, width]: grey, CMYK and 16-bit ones become 8-bit RGB, transparency
/// is left out. `file` is for messages. Throws Error(bad_data), for a picture that ends early too.
Image decode_image(std::span<const std::uint8_t> bytes, const std::filesystem::path& file);

}  // namespace syncbn
