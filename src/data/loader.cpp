#include "syncbn/data/loader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "data/image_pipeline.hpp"
#include "data/prefetcher.hpp"
#include "syncbn/core/error.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

LoaderOptions checked(const LoaderOptions& o, const Dataset& dataset) {
  const auto refuse = [](const std::string& what) { throw Error(what, ExitCode::usage); };
  if (o.workers < 1 || o.local_workers < 1 || o.first_worker < 0 || o.first_worker + o.local_workers > o.workers)
    refuse(fmt::format("loader: workers {} to {} do not lie within 0 to {}", o.first_worker,
                       o.first_worker + o.local_workers - 1, o.workers - 1));
  if (o.batch_per_worker < 1) refuse(fmt::format("batch_per_worker is {}; it must be at least 1", o.batch_per_worker));
  if (o.prefetch < 1) refuse(fmt::format("prefetch is {}; it must be at least 1", o.prefetch));
  if (dataset.size() < 1) refuse(fmt::format("data set {} is empty", dataset.name()));
  if (dataset.size() > std::numeric_limits<std::uint32_t>::max())
    refuse(fmt::format("data set {} has {} images; at most 2^32-1 can be shuffled", dataset.name(), dataset.size()));
  if (o.drop_last && dataset.size() < o.workers * o.batch_per_worker)
    refuse(
        fmt::format("{} images are less than one global batch of {}; use fewer workers, a smaller batch_per_worker, or "
                    "keep the last batch",
                    dataset.size(), o.workers * o.batch_per_worker));
  return o;
}

}  // namespace

Slice slice_of(std::int64_t samples, int workers, int worker) {
  const std::int64_t share = samples / workers, longer = samples % workers;
  return {worker * share + std::min<std::int64_t>(worker, longer), share + (worker < longer ? 1 : 0)};
}

struct Loader::Impl {
  Impl(std::shared_ptr<const Dataset> data, const LoaderOptions& o)
      : dataset(std::move(data)), options(checked(o, *dataset)), pipeline(*dataset, o.augmentation) {
    start(0, 0);
  }

  std::int64_t global_batch() const { return options.workers * options.batch_per_worker; }
  std::int64_t batches_per_epoch() const {
    const std::int64_t n = dataset->size(), batch = global_batch();
    return options.drop_last ? n / batch : (n + batch - 1) / batch;
  }

  void start(std::int64_t epoch, std::int64_t index) {
    prefetcher.reset();  // first: its thread reads what changes below
    first_round = epoch * batches_per_epoch() + index;
    order_epoch = -1;
    prefetcher.emplace(options.local_workers, options.prefetch, [this](std::int64_t round, int local, Batch& batch) {
      fill(first_round + round, local, batch);
    });
  }

  /// Background thread only.
  void fill(std::int64_t round, int local, Batch& batch) {
    batch.epoch = round / batches_per_epoch();
    batch.index = round % batches_per_epoch();
    sort_epoch(batch.epoch);
    const std::int64_t begin = batch.index * global_batch();
    batch.global_n = std::min(global_batch(), dataset->size() - begin);
    const Slice slice = slice_of(batch.global_n, options.workers, options.first_worker + local);
    batch.n = slice.count;
    const std::int64_t pixels = dataset->channels() * dataset->height() * dataset->width();
    reserve(batch, pixels);
    batch.images.resize(static_cast<std::size_t>(slice.count * pixels));
    batch.labels.resize(static_cast<std::size_t>(slice.count));
    batch.ids.resize(static_cast<std::size_t>(slice.count));
    for (std::int64_t i = 0; i < slice.count; ++i) {
      const std::int64_t id = order[static_cast<std::size_t>(begin + slice.begin + i)];
      batch.ids[static_cast<std::size_t>(i)] = id;
      batch.labels[static_cast<std::size_t>(i)] = dataset->label(id);
      pipeline.augmented(id, options.seed, batch.epoch, batch.images.data() + i * pixels);
    }
  }

  /// So that short last batches never lead to an allocation later on.
  void reserve(Batch& batch, std::int64_t pixels) const {
    const auto n = static_cast<std::size_t>(options.batch_per_worker);
    batch.images.reserve(n * static_cast<std::size_t>(pixels));
    batch.labels.reserve(n);
    batch.ids.reserve(n);
  }

  void sort_epoch(std::int64_t epoch) {
    if (epoch == order_epoch) return;
    const auto n = static_cast<std::uint32_t>(dataset->size());
    if (options.shuffle) {
      order = permutation(n, options.seed, Purpose::shuffle, static_cast<std::uint64_t>(epoch));
    } else {
      order.resize(n);
      std::iota(order.begin(), order.end(), 0u);
    }
    order_epoch = epoch;
  }

  const std::shared_ptr<const Dataset> dataset;
  const LoaderOptions options;
  const ImagePipeline pipeline;
  std::int64_t first_round = 0;
  std::int64_t order_epoch = -1;     ///< the epoch that `order` belongs to
  std::vector<std::uint32_t> order;  ///< ids of the epoch's samples
  std::optional<Prefetcher> prefetcher;
};

Loader::Loader(std::shared_ptr<const Dataset> dataset, const LoaderOptions& options)
    : impl_(std::make_unique<Impl>(std::move(dataset), options)) {}

Loader::~Loader() = default;

std::int64_t Loader::batches_per_epoch() const {
  return impl_->batches_per_epoch();
}

void Loader::seek(std::int64_t epoch, std::int64_t index) {
  if (epoch < 0 || index < 0 || index >= batches_per_epoch())
    throw Error(fmt::format("loader: no batch {} in epoch {}; an epoch has {}", index, epoch, batches_per_epoch()),
                ExitCode::usage);
  impl_->start(epoch, index);
}

const Batch& Loader::next(int local_worker) {
  return impl_->prefetcher->next(local_worker);
}

void load_plain(const Dataset& dataset, std::int64_t begin, std::int64_t count, const Augmentation& augmentation,
                float* images, int* labels) {
  const ImagePipeline pipeline(dataset, augmentation);
  const std::int64_t pixels = dataset.channels() * dataset.height() * dataset.width();
  for (std::int64_t i = 0; i < count; ++i) {
    pipeline.plain(begin + i, images + i * pixels);
    labels[i] = dataset.label(begin + i);
  }
}

}  // namespace syncbn
