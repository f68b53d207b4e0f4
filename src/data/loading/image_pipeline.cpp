#include "data/loading/image_pipeline.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "syncbn/core/error.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

/// Returns the value for channel c of a list that is empty (`otherwise`), or has one value for all or one per channel.
double per_channel(const std::vector<float>& values, std::int64_t c, double otherwise) {
  if (values.empty()) return otherwise;
  return values[values.size() == 1 ? 0 : static_cast<std::size_t>(c)];
}

void check_count(const char* what, const std::vector<float>& values, const Dataset& dataset) {
  if (values.size() > 1 && static_cast<std::int64_t>(values.size()) != dataset.channels())
    throw Error(fmt::format("{} has {} values but {} has {} channels; give one value per channel, or one for all", what,
                            values.size(), dataset.name(), dataset.channels()),
                ExitCode::usage);
}

void check(const Augmentation& augmentation, const Dataset& dataset) {
  check_count("normalization mean", augmentation.mean, dataset);
  check_count("normalization stddev", augmentation.stddev, dataset);
  for (const float s : augmentation.stddev)
    if (!(s > 0)) throw Error(fmt::format("normalization stddev is {}; it must be above 0", s), ExitCode::usage);
  if (augmentation.image_size < 0 || (augmentation.image_size == 0 && dataset.height() == 0))
    throw Error(fmt::format("image size is {}; the images of {} are of different sizes: name the one that the network "
                            "is to see",
                            augmentation.image_size, dataset.name()),
                ExitCode::usage);
  if (!(augmentation.crop_fraction > 0 && augmentation.crop_fraction <= 1))
    throw Error(fmt::format("crop fraction is {}; it must be above 0, and 1 at most", augmentation.crop_fraction),
                ExitCode::usage);
}

void check_padding(int padding, std::int64_t height, std::int64_t width) {
  const auto limit = std::min(height, width);
  if (padding < 0 || padding >= limit)
    throw Error(fmt::format("crop padding is {}; images of {}x{} allow 0 to {}", padding, height, width, limit - 1),
                ExitCode::usage);
}

}  // namespace

ImagePipeline::ImagePipeline(const Dataset& dataset, const Augmentation& augmentation)
    : dataset_(dataset),
      options_(augmentation),
      height_(augmentation.image_size > 0 ? augmentation.image_size : dataset.height()),
      width_(augmentation.image_size > 0 ? augmentation.image_size : dataset.width()) {
  check(augmentation, dataset);
  check_padding(augmentation.crop_padding, height_, width_);
}

std::vector<float> ImagePipeline::values() const {
  std::vector<float> values;
  for (std::int64_t c = 0; c < dataset_.channels(); ++c) {
    const double mean = per_channel(options_.mean, c, 0), stddev = per_channel(options_.stddev, c, 1);
    for (int byte = 0; byte < 256; ++byte)
      values.push_back(options_.binarize ? static_cast<float>(byte >= 128)
                                         : static_cast<float>((static_cast<double>(byte) / 255 - mean) / stddev));
  }
  return values;
}

void ImagePipeline::plain(std::int64_t id, std::uint8_t* out) const {
  const Image image = dataset_.image(id);
  if (fits(image)) return shifted(image.pixels(), 0, 0, false, out);
  shifted(scaled(image, center_box(image, height_, width_, options_.crop_fraction)), 0, 0, false, out);
}

void ImagePipeline::augmented(std::int64_t id, std::uint64_t seed, std::int64_t epoch, std::uint8_t* out) const {
  Random random(seed, Purpose::augment, static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(id));
  const auto offset = [&] {
    return static_cast<std::int64_t>(random.below(2 * static_cast<std::uint64_t>(options_.crop_padding) + 1)) -
           options_.crop_padding;
  };
  // Always drawn, so that switching one augmentation on or off does not change the others.
  const std::int64_t dy = offset(), dx = offset();
  const bool heads = random.next() >> 31, flip = options_.horizontal_flip && heads;
  const Image image = dataset_.image(id);
  if (options_.random_resized_crop) return shifted(scaled(image, random_box(image, random)), dy, dx, flip, out);
  if (fits(image)) return shifted(image.pixels(), dy, dx, flip, out);
  shifted(scaled(image, center_box(image, height_, width_, options_.crop_fraction)), dy, dx, flip, out);
}

bool ImagePipeline::fits(const Image& image) const {
  return image.height() == height_ && image.width() == width_ && options_.crop_fraction == 1;
}

std::vector<std::uint8_t> ImagePipeline::scaled(const Image& image, const Box& box) const {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(this->bytes()));
  scale(image, box, height_, width_, bytes);
  return bytes;
}

void ImagePipeline::shifted(std::span<const std::uint8_t> bytes, std::int64_t dy, std::int64_t dx, bool flip,
                            std::uint8_t* out) const {
  const std::int64_t height = height_, width = width_;
  const auto first = std::max<std::int64_t>(0, -dx), last = std::min(width, width - dx);  // columns with pixels
  const std::uint8_t* image = bytes.data();
  for (std::int64_t c = 0; c < dataset_.channels(); ++c, image += height * width) {
    for (std::int64_t y = 0; y < height; ++y, out += width) {
      const bool outside = y + dy < 0 || y + dy >= height;
      if (outside || first > 0 || last < width) std::fill_n(out, width, std::uint8_t{0});
      if (!outside) std::copy_n(image + (y + dy) * width + dx + first, last - first, out + first);
      if (flip) std::reverse(out, out + width);
    }
  }
}

}  // namespace syncbn
