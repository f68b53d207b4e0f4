#pragma once

#include <cstdint>
#include <span>

#include "data/dataset.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {

/// A rectangle of an image, in pixels.
struct Box {
  std::int64_t top, left, height, width;
};

/// The box of this shape that is as large as it goes, shrunk to a share of its sides, in the middle of the image.
Box center_box(const Image& image, std::int64_t height, std::int64_t width, double fraction);

/// A random part: 8 to 100 % of the area, sides in a proportion of 3/4 to 4/3 (Szegedy et al. 2015, arXiv 1409.4842,
/// section 6; the ranges and the fallback to the middle are torchvision's RandomResizedCrop).
Box random_box(const Image& image, Random& random);

/// The box as [C, height, width], through a triangle filter that is as wide as the reduction: Pillow's bilinear one,
/// which torchvision uses.
void scale(const Image& image, const Box& box, std::int64_t height, std::int64_t width, std::span<std::uint8_t> out);

}  // namespace syncbn
