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

/// Returns the largest centered box with the proportions of height x width, its sides multiplied by `fraction`.
Box center_box(const Image& image, std::int64_t height, std::int64_t width, double fraction);

/// Returns a random box: 8 to 100 % of the area, sides in a proportion of 3/4 to 4/3 (Szegedy et al. 2015, arXiv
/// 1409.4842, section 6; the ranges and the fallback to the middle are torchvision's RandomResizedCrop).
Box random_box(const Image& image, Random& random);

/// Scales the box to [C, height, width] with a triangle filter as wide as the reduction: Pillow's bilinear filter,
/// which torchvision uses.
void scale(const Image& image, const Box& box, std::int64_t height, std::int64_t width, std::span<std::uint8_t> out);

}  // namespace syncbn
