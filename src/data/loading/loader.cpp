#include "data/loading/loader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <mutex>
#include <numeric>
#include <optional>
#include <utility>

#include "data/loading/image_pipeline.hpp"
#include "data/loading/prefetcher.hpp"
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
  if (o.threads < 1) refuse(fmt::format("threads is {}; it must be at least 1", o.threads));
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

std::int64_t batch_count(std::int64_t images, std::int64_t batch, bool drop_last) {
  return drop_last ? images / batch : (images + batch - 1) / batch;
}

Shape image_shape(const Dataset& dataset, const Augmentation& augmentation) {
  const ImagePipeline pipeline(dataset, augmentation);
  return {1, dataset.channels(), pipeline.height(), pipeline.width()};
}

std::vector<float> pixel_values(const Dataset& dataset, const Augmentation& augmentation) {
  return ImagePipeline(dataset, augmentation).values();
}

struct Loader::Impl {
  Impl(std::shared_ptr<const Dataset> data, const LoaderOptions& o)
      : dataset(std::move(data)), options(checked(o, *dataset)), pipeline(*dataset, o.augmentation) {}

  std::int64_t global_batch() const { return options.workers * options.batch_per_worker; }
  std::int64_t batches_per_epoch() const { return batch_count(dataset->size(), global_batch(), options.drop_last); }

  void start(std::int64_t epoch, std::int64_t index) {
    prefetcher.reset();  // first, since its threads read what changes below
    first_round = epoch * batches_per_epoch() + index;
    prefetcher.emplace(
        options.local_workers, options.prefetch, options.threads,
        [this](std::int64_t round, int local, Batch& batch) { fill(first_round + round, local, batch); });
  }

  void fill(std::int64_t round, int local, Batch& batch) {
    const std::int64_t epoch = round / batches_per_epoch();
    const auto order = order_of(epoch);
    const std::int64_t begin = round % batches_per_epoch() * global_batch();
    const std::int64_t samples = std::min(global_batch(), dataset->size() - begin);
    const Slice slice = slice_of(samples, options.workers, options.first_worker + local);
    batch.n = slice.count;
    const std::int64_t bytes = pipeline.bytes();
    reserve(batch, bytes);
    batch.images.resize(static_cast<std::size_t>(slice.count * bytes));
    batch.labels.resize(static_cast<std::size_t>(slice.count));
    batch.ids.resize(static_cast<std::size_t>(slice.count));
    for (std::int64_t i = 0; i < slice.count; ++i) {
      const std::int64_t id = (*order)[begin + slice.begin + i];
      batch.ids[i] = id;
      batch.labels[i] = dataset->label(id);
      pipeline.augmented(id, options.seed, epoch, batch.images.data() + i * bytes);
    }
  }

  /// Reserves memory, so that short last batches never cause a later allocation.
  void reserve(Batch& batch, std::int64_t bytes) const {
    const auto n = static_cast<std::size_t>(options.batch_per_worker);
    batch.images.reserve(n * static_cast<std::size_t>(bytes));
    batch.labels.reserve(n);
    batch.ids.reserve(n);
  }

  using Order = std::shared_ptr<const std::vector<std::uint32_t>>;

  /// Returns the ids of the epoch's samples. When a new epoch begins some threads still work on the previous one.
  Order order_of(std::int64_t epoch) {
    const std::lock_guard lock(orders_mutex);
    for (const auto& [of, order] : orders) {
      if (of == epoch) return order;
    }
    std::vector<std::uint32_t> ids;
    const auto n = static_cast<std::uint32_t>(dataset->size());
    if (options.shuffle) {
      ids = permutation(n, options.seed, Purpose::shuffle, static_cast<std::uint64_t>(epoch));
    } else {
      ids.resize(n);
      std::iota(ids.begin(), ids.end(), 0u);
    }
    std::swap(orders[0], orders[1]);
    orders[1] = {epoch, std::make_shared<const std::vector<std::uint32_t>>(std::move(ids))};
    return orders[1].second;
  }

  const std::shared_ptr<const Dataset> dataset;
  const LoaderOptions options;
  const ImagePipeline pipeline;
  std::once_flag started;
  std::int64_t first_round = 0;
  std::mutex orders_mutex;
  std::array<std::pair<std::int64_t, Order>, 2> orders{{{-1, nullptr}, {-1, nullptr}}};  ///< of the two latest epochs
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
  std::call_once(impl_->started, [this] {  // not earlier: a seek() would discard what has been loaded
    if (!impl_->prefetcher) impl_->start(0, 0);
  });
  return impl_->prefetcher->next(local_worker);
}

void load_plain(const Dataset& dataset, std::int64_t begin, std::int64_t count, const Augmentation& augmentation,
                std::uint8_t* images, int* labels) {
  const ImagePipeline pipeline(dataset, augmentation);
  for (std::int64_t i = 0; i < count; ++i) {
    pipeline.plain(begin + i, images + i * pipeline.bytes());
    labels[i] = dataset.label(begin + i);
  }
}

struct PlainLoader::Impl {
  void fill(std::int64_t index, Batch& batch) const {
    if (index >= batches) return;
    const Slice part = slice_of(slice.count, static_cast<int>(batches), static_cast<int>(index));
    batch.n = part.count;
    const auto n = static_cast<std::size_t>(part.count);
    batch.images.resize(n * static_cast<std::size_t>(image_shape(dataset, augmentation).elements()));
    batch.labels.resize(n);
    load_plain(dataset, slice.begin + part.begin, part.count, augmentation, batch.images.data(), batch.labels.data());
  }

  const Dataset& dataset;
  const Augmentation augmentation;
  const Slice slice;
  const std::int64_t batches;
  std::int64_t next = 0;
  Batch own;  ///< used without threads
  std::optional<Prefetcher> prefetcher;
};

PlainLoader::PlainLoader(const Dataset& dataset, const Augmentation& augmentation, Slice slice, std::int64_t batches,
                         int threads)
    : impl_(new Impl{dataset, augmentation, slice, batches, 0, {}, {}}) {
  if (threads == 0) return;
  impl_->prefetcher.emplace(1, threads, threads,
                            [impl = impl_.get()](std::int64_t round, int, Batch& batch) { impl->fill(round, batch); });
}

PlainLoader::~PlainLoader() = default;

const Batch& PlainLoader::next() {
  if (impl_->prefetcher) return impl_->prefetcher->next(0);
  impl_->fill(impl_->next++, impl_->own);
  return impl_->own;
}

}  // namespace syncbn
