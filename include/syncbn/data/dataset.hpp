#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace syncbn {

enum class Split { train, test };

/// Images of one size with labels, whole in memory as bytes. Immutable; safe to read from any thread.
class Dataset {
 public:
  Dataset(std::string name, std::int64_t channels, std::int64_t height, std::int64_t width, int classes,
          std::vector<std::uint8_t> pixels, std::vector<std::uint8_t> labels);

  const std::string& name() const { return name_; }
  std::int64_t size() const { return static_cast<std::int64_t>(labels_.size()); }
  std::int64_t channels() const { return channels_; }
  std::int64_t height() const { return height_; }
  std::int64_t width() const { return width_; }
  int classes() const { return classes_; }
  /// Pixels of image i, [C, H, W].
  std::span<const std::uint8_t> image(std::int64_t i) const;
  int label(std::int64_t i) const { return labels_[static_cast<std::size_t>(i)]; }
  /// A 64-bit hash of everything, so that ranks can compare what they read.
  std::uint64_t fingerprint() const;
  /// The first n images (all if n <= 0 or n >= size()).
  Dataset first(std::int64_t n) const;

 private:
  std::string name_;
  std::int64_t channels_, height_, width_;
  int classes_;
  std::vector<std::uint8_t> pixels_, labels_;
};

/// Opens a data set. kind: builtin, mnist, fashion-mnist, cifar10, cifar100. `path` is the folder that holds the files
/// under their official names, raw, .gz or .xz, or a folder that holds this folder (empty:
/// $SYNCBN_DATA/<mnist|fashion-mnist|cifar-10|cifar-100>, then the place where `syncbn data get` puts them). `seed`
/// matters to builtin only. Labels of CIFAR-100 are the fine ones. Throws Error(bad_data) naming file, place and
/// remedy: missing folder, truncated or oversized file, wrong magic, label out of range.
Dataset open_dataset(const std::string& kind, const std::string& path, Split split, std::uint64_t seed = 0);

/// The built-in generated images: 3x32x32, 10 classes; hard enough that a poor normalizer shows. A pure function of
/// (seed, split, index).
Dataset make_builtin_dataset(Split split, std::uint64_t seed, std::int64_t size);

}  // namespace syncbn
