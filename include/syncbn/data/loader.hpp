#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "syncbn/data/dataset.hpp"

namespace syncbn {

struct Augmentation {
  int crop_padding = 0;          ///< random crop after padding with this many black pixels (as torchvision); 0 = none
  bool horizontal_flip = false;  ///< with probability 1/2
  bool binarize = false;         ///< pixels >= 128 become 1, others 0 (BN paper section 4.1); no normalization then
  std::vector<float> mean;       ///< per channel, of pixels in 0..1; one value serves all channels; empty: 0
  std::vector<float> stddev;     ///< likewise; empty: 1
};

/// One worker's slice of one global batch.
struct Batch {
  std::int64_t epoch = 0;
  std::int64_t index = 0;         ///< of the global batch within its epoch
  std::int64_t n = 0;             ///< samples of this worker; may be 0
  std::int64_t global_n = 0;      ///< samples of all workers
  std::vector<float> images;      ///< [n, C, H, W], 64-byte aligned data is not promised
  std::vector<int> labels;        ///< [n]
  std::vector<std::int64_t> ids;  ///< [n] indices into the data set
};

/// Where worker w's slice of a global batch of `samples` lies when it is spread as evenly as it goes over W workers:
/// consecutive, the first samples % W workers hold one more.
struct Slice {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};
Slice slice_of(std::int64_t samples, int workers, int worker);

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
};

/// Feeds this rank's workers. Order is defined by (seed, epoch), augmentation by (seed, epoch, sample index), never by
/// rank or thread. A background thread loads and augments ahead of compute.
class Loader {
 public:
  Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  std::int64_t batches_per_epoch() const;
  /// Starts the stream at global batch `index` of `epoch` (resume). Not while workers are calling next() or reading
  /// what it gave them.
  void seek(std::int64_t epoch, std::int64_t index);
  /// The next batch of this rank's local worker, epoch after epoch without end. Each local worker calls it from its own
  /// thread; the reference stays valid until its next call. Rethrows what failed in the background.
  const Batch& next(int local_worker);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Samples [begin, begin + count) in data-set order without augmentation but normalized, for evaluation.
/// images: [count, C, H, W].
void load_plain(const Dataset& dataset, std::int64_t begin, std::int64_t count, const Augmentation& augmentation,
                float* images, int* labels);

}  // namespace syncbn
