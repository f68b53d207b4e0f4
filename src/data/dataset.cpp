#include "syncbn/data/dataset.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "syncbn/core/error.hpp"

namespace syncbn {

Dataset::Dataset(std::string name, std::int64_t channels, std::int64_t height, std::int64_t width, int classes,
                 std::vector<std::uint8_t> pixels, std::vector<std::uint8_t> labels)
    : name_(std::move(name)),
      channels_(channels),
      height_(height),
      width_(width),
      classes_(classes),
      pixels_(std::move(pixels)),
      labels_(std::move(labels)) {
  if (channels < 1 || height < 1 || width < 1 || classes < 1 || classes > 256)
    throw Error(
        fmt::format("data set {}: impossible shape {}x{}x{} with {} classes", name_, channels, height, width, classes),
        ExitCode::bad_data);
  if (pixels_.size() != labels_.size() * static_cast<std::size_t>(channels * height * width))
    throw Error(fmt::format("data set {}: {} bytes of pixels do not make {} images of {}x{}x{}", name_, pixels_.size(),
                            labels_.size(), channels, height, width),
                ExitCode::bad_data);
  const auto bad = std::find_if(labels_.begin(), labels_.end(), [&](int label) { return label >= classes; });
  if (bad != labels_.end())
    throw Error(fmt::format("data set {}: image {} has label {}, expected 0 to {}", name_, bad - labels_.begin(), *bad,
                            classes - 1),
                ExitCode::bad_data);
}

std::span<const std::uint8_t> Dataset::image(std::int64_t i) const {
  const auto bytes = static_cast<std::size_t>(channels_ * height_ * width_);
  return std::span(pixels_).subspan(static_cast<std::size_t>(i) * bytes, bytes);
}

std::uint64_t Dataset::fingerprint() const {
  const std::string head = fmt::format("{} {}x{}x{} {} {}", name_, channels_, height_, width_, classes_, size());
  XXH64_hash_t hash = XXH3_64bits(head.data(), head.size());
  hash = XXH3_64bits_withSeed(labels_.data(), labels_.size(), hash);
  return XXH3_64bits_withSeed(pixels_.data(), pixels_.size(), hash);
}

Dataset Dataset::first(std::int64_t n) const {
  if (n <= 0 || n >= size()) return *this;
  const auto bytes = n * channels_ * height_ * width_;
  return Dataset(name_, channels_, height_, width_, classes_, {pixels_.begin(), pixels_.begin() + bytes},
                 {labels_.begin(), labels_.begin() + n});
}

}  // namespace syncbn
