#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace syncbn {

enum class Split { train, test };

/// The bytes of one image, [C, height, width]: borrowed from a data set, or owned.
class Image {
 public:
  Image(std::int64_t height, std::int64_t width, std::span<const std::uint8_t> lent);
  Image(std::int64_t height, std::int64_t width, std::vector<std::uint8_t> own);
  Image(Image&&) = default;
  Image& operator=(Image&&) = default;

  std::int64_t height() const { return height_; }
  std::int64_t width() const { return width_; }
  std::span<const std::uint8_t> pixels() const { return pixels_; }

 private:
  std::int64_t height_, width_;
  std::vector<std::uint8_t> own_;
  std::span<const std::uint8_t> pixels_;
};

/// The source of a data set's images: memory, or files that are read on each request. Immutable; safe to use from any
/// thread.
class ImageSource {
 public:
  virtual ~ImageSource() = default;
  /// Throws Error(bad_data) naming the file.
  virtual Image image(std::int64_t i) const = 0;
  /// The image's file, as the data set's user knows it; empty where images have no files of their own.
  virtual std::string file(std::int64_t /*i*/) const { return {}; }
  /// A 64-bit hash of what tells the first n images from others: everything in memory, the names of files.
  virtual std::uint64_t hash(std::int64_t n, std::uint64_t seed) const = 0;
};

/// Images with labels. Immutable; copies share the images; safe to read from any thread.
class Dataset {
 public:
  /// height and width 0: images of different sizes. Throws Error(bad_data) for a label that is not a class.
  Dataset(std::string name, std::int64_t channels, std::int64_t height, std::int64_t width, int classes,
          std::vector<std::uint16_t> labels, std::shared_ptr<const ImageSource> images,
          std::vector<std::string> class_names = {}, std::string note = {});

  const std::string& name() const { return name_; }
  std::int64_t size() const { return static_cast<std::int64_t>(labels_.size()); }
  std::int64_t channels() const { return channels_; }
  std::int64_t height() const { return height_; }  ///< of all images; 0: sizes differ
  std::int64_t width() const { return width_; }    ///< likewise
  int classes() const { return classes_; }
  const std::vector<std::string>& class_names() const { return class_names_; }  ///< by label; empty: unknown
  /// Names of classes that no image is of, as far as names are known.
  std::vector<std::string> classes_without_images() const;
  const std::string& note() const { return note_; }  ///< for the user: what was left out; usually empty
  Image image(std::int64_t i) const { return images_->image(i); }
  int label(std::int64_t i) const { return labels_[i]; }
  std::string file(std::int64_t i) const { return images_->file(i); }  ///< see ImageSource::file()
  /// A 64-bit hash of the data, so that ranks can compare what they have read, see ImageSource::hash().
  std::uint64_t fingerprint() const;
  /// Returns the first n images (all if n <= 0 or n >= size()).
  Dataset first(std::int64_t n) const;

 private:
  void check_labels() const;

  std::string name_;
  std::int64_t channels_, height_, width_;
  int classes_;
  std::vector<std::uint16_t> labels_;
  std::shared_ptr<const ImageSource> images_;
  std::vector<std::string> class_names_;
  std::string note_;
};

/// Opens a data set. kind: builtin, mnist, fashion-mnist, cifar10, cifar100, image-folder. `path` is the folder that
/// holds the files under their official names, raw, .gz or .xz, or a folder that holds this folder (empty:
/// $SYNCBN_DATA/<mnist|fashion-mnist|cifar-10|cifar-100>, then the place where `syncbn data get` puts them); of an
/// image-folder that with train/CLASS/*.jpg and val/CLASS/*.jpg (or test/; .jpeg, .png), as torchvision's ImageFolder
/// reads it, but with the classes taking turns, so that the first n images are of all of them. `classes`: names of an
/// image-folder's, in the order of the labels; empty: those of train, or of val where there is no train. `seed` matters
/// to builtin only. Labels of CIFAR-100 are the fine ones. Throws Error(bad_data) naming file, place and remedy:
/// missing folder, truncated or oversized file, wrong magic, label out of range.
Dataset open_dataset(const std::string& kind, const std::string& path, Split split, std::uint64_t seed = 0,
                     const std::vector<std::string>& classes = {});

/// Makes the built-in generated images: 3x32x32, 10 classes; hard enough to reveal a poor normalizer. A pure function
/// of (seed, split, index).
Dataset make_builtin_dataset(Split split, std::uint64_t seed, std::int64_t size);

}  // namespace syncbn
