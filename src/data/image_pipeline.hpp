#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "data/image_scale.hpp"
#include "syncbn/data/dataset.hpp"
#include "syncbn/data/loader.hpp"

namespace syncbn {

/// Turns the bytes of an image into the floats that a network sees: scale, crop and flip, then binarize or normalize.
class ImagePipeline {
 public:
  /// Throws Error(usage) if the augmentation does not fit the data set. Keeps a reference to `dataset`.
  ImagePipeline(const Dataset& dataset, const Augmentation& augmentation);

  /// Of what comes out, [C, H, W].
  std::int64_t height() const { return height_; }
  std::int64_t width() const { return width_; }
  std::int64_t values() const { return dataset_.channels() * height_ * width_; }

  /// Image `id` as it is. out: [C, H, W].
  void plain(std::int64_t id, float* out) const;
  /// Image `id` with the random changes of (seed, epoch, id). out: [C, H, W].
  void augmented(std::int64_t id, std::uint64_t seed, std::int64_t epoch, float* out) const;

 private:
  /// Whether an image can be used as it is.
  bool fits(const Image& image) const;
  std::vector<std::uint8_t> scaled(const Image& image, const Box& box) const;
  /// [C, H, W] bytes shifted by (dy, dx), black (byte 0, as torchvision's RandomCrop) where there are none.
  void shifted(std::span<const std::uint8_t> bytes, std::int64_t dy, std::int64_t dx, bool flip, float* out) const;

  const Dataset& dataset_;
  Augmentation options_;
  std::int64_t height_, width_;
  std::vector<std::array<float, 256>> value_;  ///< [C][byte]
};

}  // namespace syncbn
