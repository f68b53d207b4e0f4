#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "syncbn/data/dataset.hpp"
#include "syncbn/data/loader.hpp"

namespace syncbn {

/// Turns the bytes of an image into the floats that a network sees: crop and flip, then binarize or normalize.
class ImagePipeline {
 public:
  /// Throws Error(usage) if the augmentation does not fit the data set. Keeps a reference to `dataset`.
  ImagePipeline(const Dataset& dataset, const Augmentation& augmentation);

  /// Image `id` as it is. out: [C, H, W].
  void plain(std::int64_t id, float* out) const;
  /// Image `id` with the random changes of (seed, epoch, id). out: [C, H, W].
  void augmented(std::int64_t id, std::uint64_t seed, std::int64_t epoch, float* out) const;

 private:
  /// The image shifted by (dy, dx), black (byte 0, as torchvision's RandomCrop) where it has no pixels.
  void shifted(std::int64_t id, std::int64_t dy, std::int64_t dx, bool flip, float* out) const;

  const Dataset& dataset_;
  int crop_padding_;
  bool flip_;
  std::vector<std::array<float, 256>> value_;  ///< [C][byte]
};

}  // namespace syncbn
