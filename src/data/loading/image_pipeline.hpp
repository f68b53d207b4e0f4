#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/dataset.hpp"
#include "data/loading/image_scale.hpp"
#include "data/loading/loader.hpp"

namespace syncbn {

/// Prepares images for a network: scales, crops and flips bytes, and defines the values that they stand for.
class ImagePipeline {
 public:
  /// Throws Error(usage) if the augmentation does not fit the data set. Keeps a reference to `dataset`.
  ImagePipeline(const Dataset& dataset, const Augmentation& augmentation);

  /// Height of the prepared images, [C, H, W].
  std::int64_t height() const { return height_; }
  std::int64_t width() const { return width_; }
  std::int64_t bytes() const { return dataset_.channels() * height_ * width_; }
  /// The values that bytes stand for, normalized or binarized: [C, 256].
  std::vector<float> values() const;

  /// Writes image `id` without random changes. out: [C, H, W].
  void plain(std::int64_t id, std::uint8_t* out) const;
  /// Writes image `id` with the random changes of (seed, epoch, id). out: [C, H, W].
  void augmented(std::int64_t id, std::uint64_t seed, std::int64_t epoch, std::uint8_t* out) const;

 private:
  /// Whether an image can be used without scaling.
  bool fits(const Image& image) const;
  std::vector<std::uint8_t> scaled(const Image& image, const Box& box) const;
  /// Writes [C, H, W] bytes shifted by (dy, dx); black (byte 0, as torchvision's RandomCrop) beyond their edges.
  void shifted(std::span<const std::uint8_t> bytes, std::int64_t dy, std::int64_t dx, bool flip,
               std::uint8_t* out) const;

  const Dataset& dataset_;
  Augmentation options_;
  std::int64_t height_, width_;
};

}  // namespace syncbn
