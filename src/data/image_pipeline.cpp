#include "data/image_pipeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "syncbn/core/error.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

/// The value for channel c of a list that is empty (`otherwise`), one for all or one per channel.
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
  const auto limit = std::min(dataset.height(), dataset.width());
  if (augmentation.crop_padding < 0 || augmentation.crop_padding >= limit)
    throw Error(fmt::format("crop padding is {}; images of {}x{} allow 0 to {}", augmentation.crop_padding,
                            dataset.height(), dataset.width(), limit - 1),
                ExitCode::usage);
}

}  // namespace

ImagePipeline::ImagePipeline(const Dataset& dataset, const Augmentation& augmentation)
    : dataset_(dataset),
      crop_padding_(augmentation.crop_padding),
      flip_(augmentation.horizontal_flip),
      value_(static_cast<std::size_t>(dataset.channels())) {
  check(augmentation, dataset);
  for (std::int64_t c = 0; c < dataset.channels(); ++c) {
    const double mean = per_channel(augmentation.mean, c, 0), stddev = per_channel(augmentation.stddev, c, 1);
    auto& table = value_[static_cast<std::size_t>(c)];
    for (std::size_t byte = 0; byte < table.size(); ++byte)
      table[byte] = augmentation.binarize ? static_cast<float>(byte >= 128)
                                          : static_cast<float>((static_cast<double>(byte) / 255 - mean) / stddev);
  }
}

void ImagePipeline::plain(std::int64_t id, float* out) const {
  shifted(id, 0, 0, false, out);
}

void ImagePipeline::augmented(std::int64_t id, std::uint64_t seed, std::int64_t epoch, float* out) const {
  Random random(seed, Purpose::augment, static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(id));
  const auto offset = [&] {
    return static_cast<std::int64_t>(random.below(2 * static_cast<std::uint64_t>(crop_padding_) + 1)) - crop_padding_;
  };
  // Drawn whether used or not, so that switching one change on or off leaves the other as it was.
  const std::int64_t dy = offset(), dx = offset();
  const bool heads = random.next() >> 31;
  shifted(id, dy, dx, flip_ && heads, out);
}

void ImagePipeline::shifted(std::int64_t id, std::int64_t dy, std::int64_t dx, bool flip, float* out) const {
  const std::int64_t height = dataset_.height(), width = dataset_.width();
  const auto first = std::max<std::int64_t>(0, -dx), last = std::min(width, width - dx);  // columns with pixels
  const std::uint8_t* image = dataset_.image(id).data();
  for (const auto& table : value_) {
    for (std::int64_t y = 0; y < height; ++y, out += width) {
      const bool outside = y + dy < 0 || y + dy >= height;
      if (outside || first > 0 || last < width) std::fill(out, out + width, table[0]);
      if (!outside) {
        const std::uint8_t* row = image + (y + dy) * width + dx;
        for (std::int64_t x = first; x < last; ++x) out[x] = table[row[x]];
      }
      if (flip) std::reverse(out, out + width);
    }
    image += height * width;
  }
}

}  // namespace syncbn
