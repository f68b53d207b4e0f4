#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/slice.hpp"
#include "data/dataset.hpp"
#include "syncbn/core/tensor.hpp"

namespace syncbn {

struct Augmentation {
  std::int64_t image_size = 0;       ///< images are scaled to this height and width; 0: the data set's own
  double crop_fraction = 1;          ///< the middle of an image with this fraction of its shorter side is scaled
  bool random_resized_crop = false;  ///< in training, scale a random part of the image instead
  int crop_padding = 0;              ///< pad with this many black pixels, then crop at random (as torchvision); 0 = off
  bool horizontal_flip = false;      ///< with probability 1/2
  bool binarize = false;             ///< pixels >= 128 become 1, others 0 (BN paper section 4.1); no normalization then
  std::vector<float> mean;    ///< per channel, of pixels in 0..1; a single value applies to all channels; empty: 0
  std::vector<float> stddev;  ///< likewise; empty: 1
};

/// One worker's slice of one global batch.
struct Batch {
  std::int64_t n = 0;                ///< samples of this worker; may be 0
  std::vector<std::uint8_t> images;  ///< [n, C, H, W]; for the values of the bytes see pixel_values()
  std::vector<int> labels;           ///< [n]
  std::vector<std::int64_t> ids;     ///< [n] indices into the data set
};

/// Worker w's slice when a global batch of `samples` is divided as evenly as possible among W workers: consecutive, the
/// first samples % W workers have one more.
Slice slice_of(std::int64_t samples, int workers, int worker);

/// Number of global batches of `batch` images in an epoch, including the smaller last one unless it is dropped.
std::int64_t batch_count(std::int64_t images, std::int64_t batch, bool drop_last);

struct LoaderOptions {
  int workers = 1;        ///< W
  int first_worker = 0;   ///< of this rank
  int local_workers = 1;  ///< of this rank
  std::int64_t batch_per_worker = 1;
  std::uint64_t seed = 0;
  bool shuffle = true;
  bool drop_last = false;
  Augmentation augmentation;
  int prefetch = 3;  ///< global batches loaded ahead of compute
  int threads = 1;   ///< loader threads; each loads one worker's batch at a time
};

/// [1, C, H, W] of an image as the network receives it.
Shape image_shape(const Dataset& dataset, const Augmentation& augmentation);

/// The value that the network receives for each byte of each channel, normalized or binarized: [C, 256].
std::vector<float> pixel_values(const Dataset& dataset, const Augmentation& augmentation);

/// Loads batches for this rank's workers. The order is determined by (seed, epoch), augmentation by (seed, epoch,
/// sample index), never by rank or thread. Background threads load and augment ahead of computation.
class Loader {
 public:
  Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  std::int64_t batches_per_epoch() const;
  /// Restarts the stream at global batch `index` of `epoch` (resume). Not while workers are calling next() or reading a
  /// batch that it returned.
  void seek(std::int64_t epoch, std::int64_t index);
  /// Returns the next batch of this rank's local worker, epoch after epoch without end. One call per local worker at a
  /// time; the reference stays valid until its next call. Waits, which blocks the other workers of its thread. Rethrows
  /// errors of the background threads.
  const Batch& next(int local_worker);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Loads samples [begin, begin + count) in data-set order without augmentation, for evaluation. images: [count, C, H,
/// W], see image_shape().
void load_plain(const Dataset& dataset, std::int64_t begin, std::int64_t count, const Augmentation& augmentation,
                std::uint8_t* images, int* labels);

/// Loads a slice of a data set for evaluation: in order, as load_plain() does, in `batches` batches of about the same
/// size. `threads` background threads load ahead; 0: next() loads by itself, which is best if nothing is decoded. The
/// data set must outlive it.
class PlainLoader {
 public:
  PlainLoader(const Dataset& dataset, const Augmentation& augmentation, Slice slice, std::int64_t batches, int threads);
  ~PlainLoader();
  PlainLoader(const PlainLoader&) = delete;
  PlainLoader& operator=(const PlainLoader&) = delete;

  /// Returns the next batch, with n, images and labels set; valid until the next call. To be called `batches` times.
  const Batch& next();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace syncbn
