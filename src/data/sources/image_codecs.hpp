#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "data/dataset.hpp"

namespace syncbn {

/// Decodes the JPEG or PNG picture in `bytes` to [3, height, width]: grey, CMYK and 16-bit pictures become 8-bit RGB,
/// transparency is dropped. `file` is for messages. Throws Error(bad_data), also for a truncated picture.
Image decode_image(std::span<const std::uint8_t> bytes, const std::filesystem::path& file);

}  // namespace syncbn
