#include "data/dataset.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "syncbn/core/error.hpp"

namespace syncbn {

Image::Image(std::int64_t height, std::int64_t width, std::span<const std::uint8_t> lent)
    : height_(height), width_(width), pixels_(lent) {}

Image::Image(std::int64_t height, std::int64_t width, std::vector<std::uint8_t> own)
    : height_(height), width_(width), own_(std::move(own)), pixels_(own_) {}

Dataset::Dataset(std::string name, std::int64_t channels, std::int64_t height, std::int64_t width, int classes,
                 std::vector<std::uint16_t> labels, std::shared_ptr<const ImageSource> images,
                 std::vector<std::string> class_names, std::string note)
    : name_(std::move(name)),
      channels_(channels),
      height_(height),
      width_(width),
      classes_(classes),
      labels_(std::move(labels)),
      images_(std::move(images)),
      class_names_(std::move(class_names)),
      note_(std::move(note)) {
  check_labels();
}

void Dataset::check_labels() const {
  const auto bad = std::find_if(labels_.begin(), labels_.end(), [&](int label) { return label >= classes_; });
  if (bad != labels_.end())
    throw Error(fmt::format("data set {}: image {} has label {}, expected 0 to {}", name_, bad - labels_.begin(), *bad,
                            classes_ - 1),
                ExitCode::bad_data);
}

std::vector<std::string> Dataset::classes_without_images() const {
  std::vector<bool> seen(class_names_.size());
  for (const std::uint16_t label : labels_)
    if (label < seen.size()) seen[label] = true;
  std::vector<std::string> names;
  for (std::size_t c = 0; c < seen.size(); ++c)
    if (!seen[c]) names.push_back(class_names_[c]);
  return names;
}

std::uint64_t Dataset::fingerprint() const {
  const std::string head = fmt::format("{} {}x{}x{} {} {}", name_, channels_, height_, width_, classes_, size());
  XXH64_hash_t hash = XXH3_64bits(head.data(), head.size());
  hash = XXH3_64bits_withSeed(labels_.data(), labels_.size() * sizeof(labels_[0]), hash);
  return images_->hash(size(), hash);
}

Dataset Dataset::first(std::int64_t n) const {
  Dataset some = *this;
  if (n > 0 && n < size()) some.labels_.resize(static_cast<std::size_t>(n));
  return some;
}

}  // namespace syncbn
