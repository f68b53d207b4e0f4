#include "data/loading/loader.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "data/loading/image_pipeline.hpp"
#include "unit/data_files.hpp"

namespace syncbn::test {
namespace {

using ::testing::HasSubstr;

/// n images of 2x5x6 whose pixels are all different from one another in small sets.
std::shared_ptr<const Dataset> numbered(std::int64_t n) {
  Bytes pixels(static_cast<std::size_t>(n) * 60), labels(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i * 37 + i / 60);
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::uint8_t>(i % 10);
  return std::make_shared<const Dataset>(in_memory("numbered", {1, 2, 5, 6}, 10, pixels, labels));
}

LoaderOptions options(int workers, std::int64_t batch) {
  LoaderOptions o;
  o.workers = o.local_workers = workers;
  o.batch_per_worker = batch;
  o.seed = 42;
  return o;
}

Augmentation full_augmentation() {
  return {.crop_padding = 2, .horizontal_flip = true, .binarize = false, .mean = {0.5f, 0.4f}, .stddev = {0.25f, 0.2f}};
}

/// The next global batch, workers one after the other.
Batch gather(Loader& loader, int local_workers) {
  Batch all;
  for (int w = 0; w < local_workers; ++w) {
    const Batch& part = loader.next(w);
    all.n += part.n;
    all.images.insert(all.images.end(), part.images.begin(), part.images.end());
    all.labels.insert(all.labels.end(), part.labels.begin(), part.labels.end());
    all.ids.insert(all.ids.end(), part.ids.begin(), part.ids.end());
    EXPECT_EQ(part.n, static_cast<std::int64_t>(part.ids.size()));
    EXPECT_EQ(part.n, static_cast<std::int64_t>(part.labels.size()));
    EXPECT_EQ(part.n * 60, static_cast<std::int64_t>(part.images.size()));
  }
  return all;
}

TEST(Slice, SpreadsEvenlyAndConsecutively) {
  for (std::int64_t samples : {0, 1, 3, 8, 9, 15, 16, 100})
    for (int workers : {1, 2, 3, 8, 17}) {
      std::int64_t end = 0;
      for (int w = 0; w < workers; ++w) {
        const Slice slice = slice_of(samples, workers, w);
        EXPECT_EQ(slice.begin, end);
        EXPECT_EQ(slice.count, samples / workers + (w < samples % workers));
        end = slice.begin + slice.count;
      }
      EXPECT_EQ(end, samples);
    }
}

TEST(Loader, VisitsEverySampleOncePerEpochInAnOrderOfItsOwn) {
  Loader loader(numbered(50), options(4, 3));
  ASSERT_EQ(loader.batches_per_epoch(), 5);
  std::vector<std::vector<std::int64_t>> epochs;
  for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::int64_t> ids;
    for (std::int64_t b = 0; b < 5; ++b) {
      const Batch batch = gather(loader, 4);
      EXPECT_EQ(batch.n, b < 4 ? 12 : 2);
      ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
      for (std::size_t i = 0; i < batch.ids.size(); ++i) EXPECT_EQ(batch.labels[i], batch.ids[i] % 10);
    }
    epochs.push_back(ids);
    std::sort(ids.begin(), ids.end());
    for (std::int64_t i = 0; i < 50; ++i) EXPECT_EQ(ids[i], i);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(Loader, GivesTheLastWorkersNothingWhenTheBatchIsTooSmall) {
  Loader loader(numbered(10), options(4, 2));
  gather(loader, 4);
  for (int w = 0; w < 4; ++w) {
    const Batch& batch = loader.next(w);
    EXPECT_EQ(batch.n, w < 2 ? 1 : 0);
  }
}

TEST(Loader, DropLastLeavesOutTheRest) {
  auto o = options(4, 2);
  o.drop_last = true;
  Loader loader(numbered(23), o);
  EXPECT_EQ(loader.batches_per_epoch(), 2);
  for (int b = 0; b < 5; ++b) EXPECT_EQ(gather(loader, 4).n, 8);
}

TEST(Loader, WithoutShuffleKeepsTheOrderOfTheDataSet) {
  auto o = options(2, 4);
  o.shuffle = false;
  Loader loader(numbered(20), o);
  for (int epoch = 0; epoch < 2; ++epoch)
    for (std::int64_t b = 0; b < 3; ++b) {
      const Batch batch = gather(loader, 2);
      for (std::size_t i = 0; i < batch.ids.size(); ++i) EXPECT_EQ(batch.ids[i], b * 8 + static_cast<std::int64_t>(i));
    }
}

TEST(Loader, DependsNeitherOnRanksNorOnHowTheBatchIsCutIntoWorkers) {
  const auto set = numbered(45);
  auto whole = options(6, 2);
  whole.augmentation = full_augmentation();
  Loader reference(set, whole);
  auto fewer = options(2, 6);
  fewer.augmentation = full_augmentation();
  fewer.prefetch = 1;
  Loader other(set, fewer);
  std::vector<std::unique_ptr<Loader>> ranks;
  for (const auto& [first, count] : {std::pair{0, 1}, {1, 3}, {4, 2}}) {
    auto part = whole;
    part.first_worker = first;
    part.local_workers = count;
    ranks.push_back(std::make_unique<Loader>(set, part));
  }
  for (int b = 0; b < 11; ++b) {
    const Batch all = gather(reference, 6);
    const Batch same = gather(other, 2);
    EXPECT_EQ(same.ids, all.ids);
    EXPECT_EQ(same.images, all.images);
    Batch joined;
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      const Batch part = gather(*ranks[r], r == 0 ? 1 : r == 1 ? 3 : 2);
      joined.ids.insert(joined.ids.end(), part.ids.begin(), part.ids.end());
      joined.images.insert(joined.images.end(), part.images.begin(), part.images.end());
    }
    EXPECT_EQ(joined.ids, all.ids);
    EXPECT_EQ(joined.images, all.images);
  }
}

TEST(Loader, SeekGoesOnAsIfNeverStopped) {
  auto o = options(3, 4);
  o.augmentation = full_augmentation();
  Loader straight(numbered(40), o), jumping(numbered(40), o);
  std::vector<Batch> batches;
  for (int b = 0; b < 12; ++b) batches.push_back(gather(straight, 3));
  for (const auto at : {5, 0, 11, 3, 4}) {
    jumping.seek(at / 4, at % 4);
    const Batch batch = gather(jumping, 3);
    EXPECT_EQ(batch.ids, batches[at].ids);
    EXPECT_EQ(batch.images, batches[at].images);
  }
  EXPECT_THROW(jumping.seek(0, 4), Error);
  EXPECT_THROW(jumping.seek(-1, 0), Error);
}

TEST(Loader, ReusesItsBuffers) {
  auto o = options(1, 8);
  Loader loader(numbered(20), o);  // batches of 8, 8, 4
  std::vector<const std::uint8_t*> seen;
  for (int b = 0; b < 30; ++b) {
    const std::uint8_t* images = loader.next(0).images.data();
    if (std::find(seen.begin(), seen.end(), images) == seen.end()) seen.push_back(images);
  }
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(o.prefetch) + 1);
}

TEST(Loader, FeedsWorkersFromTheirOwnThreads) {
  constexpr int kWorkers = 5;
  auto o = options(kWorkers, 3);
  o.augmentation = full_augmentation();
  const auto set = numbered(52);
  std::vector<std::vector<std::int64_t>> ids(kWorkers);
  {
    Loader loader(set, o);
    std::vector<std::jthread> workers;
    for (int w = 0; w < kWorkers; ++w)
      workers.emplace_back([&, w] {
        for (int b = 0; b < 200; ++b) {
          const Batch& batch = loader.next(w);
          ids[w].insert(ids[w].end(), batch.ids.begin(), batch.ids.end());
        }
      });
  }
  Loader again(set, o);
  std::vector<std::vector<std::int64_t>> expected(kWorkers);
  for (int b = 0; b < 200; ++b)
    for (int w = 0; w < kWorkers; ++w) {
      const Batch& batch = again.next(w);
      expected[w].insert(expected[w].end(), batch.ids.begin(), batch.ids.end());
    }
  EXPECT_EQ(ids, expected);
}

TEST(Loader, StopsAtAnyMoment) {
  for (int taken = 0; taken < 12; ++taken) {
    Loader loader(numbered(30), options(2, 4));
    for (int b = 0; b < taken; ++b) gather(loader, 2);
    if (taken % 3 == 0) loader.seek(1, 0);
  }
}

TEST(Loader, RefusesOptionsThatMakeNoSense) {
  const auto refused = [](auto change) {
    auto o = options(4, 2);
    change(o);
    return message_of(ExitCode::usage, [&] { Loader loader(numbered(7), o); });
  };
  EXPECT_THAT(refused([](auto& o) { o.first_worker = 1; }), HasSubstr("workers 1 to 4"));
  EXPECT_THAT(refused([](auto& o) { o.batch_per_worker = 0; }), HasSubstr("batch_per_worker"));
  EXPECT_THAT(refused([](auto& o) { o.prefetch = 0; }), HasSubstr("prefetch"));
  EXPECT_THAT(refused([](auto& o) { o.drop_last = true; }), HasSubstr("7 images are less than one global batch of 8"));
  EXPECT_THAT(refused([](auto& o) { o.augmentation.crop_padding = 5; }), HasSubstr("crop padding"));
  EXPECT_THAT(refused([](auto& o) { o.augmentation.mean = {1, 2, 3}; }), HasSubstr("3 values"));
  EXPECT_THAT(refused([](auto& o) { o.augmentation.stddev = {0}; }), HasSubstr("stddev"));
}

/// Pixel (c, y, x) of an image, black outside, as the network sees it: computed one by one in double.
double expected_pixel(const Dataset& set, std::int64_t id, std::int64_t c, std::int64_t y, std::int64_t x) {
  const bool inside = y >= 0 && y < set.height() && x >= 0 && x < set.width();
  const double byte = inside ? set.image(id).pixels()[(c * set.height() + y) * set.width() + x] : 0;
  const Augmentation a = full_augmentation();
  return (byte / 255 - a.mean[c]) / a.stddev[c];
}

/// Value i of an image of bytes [2, 5, 6], as the network sees it.
double value_of(const std::vector<float>& values, const std::uint8_t* image, std::int64_t i) {
  return values[i / 30 * 256 + image[i]];
}

TEST(Augmentation, IsACropWithBlackBordersAndAFlip) {
  const auto set = numbered(40);
  const std::vector<float> values = pixel_values(*set, full_augmentation());
  auto o = options(1, 40);
  o.augmentation = full_augmentation();
  Loader loader(set, o);
  std::vector<int> seen(5 * 5 * 2);
  for (int epoch = 0; epoch < 20; ++epoch) {
    const Batch& batch = loader.next(0);
    for (std::size_t i = 0; i < 40; ++i) {
      int matches = 0;
      for (int variant = 0; variant < 50; ++variant) {
        const std::int64_t dy = variant / 10 - 2, dx = variant / 2 % 5 - 2;
        const bool flip = variant % 2;
        bool same = true;
        for (std::int64_t p = 0; p < 60 && same; ++p) {
          const std::int64_t c = p / 30, y = p / 6 % 5, x = p % 6;
          const double expected = expected_pixel(*set, batch.ids[i], c, y + dy, (flip ? 5 - x : x) + dx);
          same = std::abs(value_of(values, &batch.images[i * 60], p) - expected) < 1e-6;
        }
        matches += same;
        seen[variant] += same;
      }
      EXPECT_EQ(matches, 1);
    }
  }
  for (const int count : seen) EXPECT_GT(count, 2);  // 800 draws of 50 variants
}

TEST(Augmentation, DependsOnSeedEpochAndImage) {
  const auto set =
      std::make_shared<const Dataset>(in_memory("alike", {1, 2, 5, 6}, 1, Bytes(8 * 60, 200), Bytes(8, 0)));
  const ImagePipeline pipeline(*set, full_augmentation());
  const auto all = [&](std::uint64_t seed, std::int64_t epoch, std::int64_t first) {
    std::vector<std::uint8_t> images(4 * 60);
    for (std::int64_t i = 0; i < 4; ++i) pipeline.augmented(first + i, seed, epoch, images.data() + i * 60);
    return images;
  };
  EXPECT_EQ(all(1, 2, 0), all(1, 2, 0));
  EXPECT_NE(all(1, 2, 0), all(2, 2, 0));
  EXPECT_NE(all(1, 2, 0), all(1, 3, 0));
  EXPECT_NE(all(1, 2, 0), all(1, 2, 4));
}

TEST(Augmentation, SwitchingTheFlipLeavesTheCropAsItWas) {
  const auto set = numbered(8);
  Augmentation crop = full_augmentation(), both = full_augmentation();
  crop.horizontal_flip = false;
  const ImagePipeline cropped(*set, crop), changed(*set, both);
  std::vector<std::uint8_t> a(60), b(60);
  int equal = 0;
  for (std::int64_t id = 0; id < 8; ++id) {
    cropped.augmented(id, 1, 2, a.data());
    changed.augmented(id, 1, 2, b.data());
    if (a == b) ++equal;
    for (std::size_t row = 0; a != b && row < 60; row += 6)
      std::reverse(b.begin() + static_cast<std::ptrdiff_t>(row), b.begin() + static_cast<std::ptrdiff_t>(row) + 6);
    EXPECT_EQ(a, b);
  }
  EXPECT_GT(equal, 0);
  EXPECT_LT(equal, 8);
}

TEST(LoadPlain, NormalizesWithoutAugmentation) {
  const auto set = numbered(6);
  const std::vector<float> values = pixel_values(*set, full_augmentation());
  std::vector<std::uint8_t> images(3 * 60);
  std::vector<int> labels(3);
  load_plain(*set, 2, 3, full_augmentation(), images.data(), labels.data());
  EXPECT_EQ(labels, (std::vector<int>{2, 3, 4}));
  for (std::int64_t i = 0; i < 180; ++i)
    EXPECT_NEAR(value_of(values, &images[i / 60 * 60], i % 60),
                expected_pixel(*set, 2 + i / 60, i % 60 / 30, i % 30 / 6, i % 6), 1e-6);
}

TEST(PlainLoader, GoesThroughASlice) {
  const auto set = numbered(30);
  for (const int threads : {0, 1, 3}) {
    PlainLoader loader(*set, full_augmentation(), {4, 20}, 6, threads);
    std::int64_t at = 4;
    for (int i = 0; i < 6; ++i) {
      const Batch& batch = loader.next();
      EXPECT_EQ(batch.n, i < 2 ? 4 : 3);
      std::vector<std::uint8_t> images(static_cast<std::size_t>(batch.n) * 60);
      std::vector<int> labels(static_cast<std::size_t>(batch.n));
      load_plain(*set, at, batch.n, full_augmentation(), images.data(), labels.data());
      EXPECT_EQ(batch.images, images);
      EXPECT_EQ(batch.labels, labels);
      at += batch.n;
    }
  }
}

TEST(LoadPlain, BinarizesAt128) {
  const Dataset set = in_memory("grey", {1, 1, 1, 4}, 2, {0, 127, 128, 255}, {1});
  std::vector<std::uint8_t> images(4);
  int label = 0;
  load_plain(set, 0, 1, {}, images.data(), &label);
  const auto seen = [&](const Augmentation& augmentation) {
    const std::vector<float> values = pixel_values(set, augmentation);
    std::vector<float> result;
    for (const std::uint8_t byte : images) result.push_back(values[byte]);
    return result;
  };
  EXPECT_EQ(seen({.binarize = true, .mean = {0.5f}, .stddev = {2.0f}}), (std::vector<float>{0, 0, 1, 1}));
  EXPECT_EQ(seen({}), (std::vector<float>{0, 127.0f / 255, 128.0f / 255, 1}));
}

TEST(Loader, LoadsTheSameWithAnyNumberOfThreads) {
  const auto set = numbered(23);
  std::vector<std::vector<float>> seen;
  for (const int threads : {1, 2, 4}) {
    auto o = options(3, 2);
    o.augmentation = full_augmentation();
    o.threads = threads;
    o.prefetch = 6;  // over the turns of epochs, of which each has four batches
    Loader loader(set, o);
    loader.seek(0, 1);
    std::vector<float> values;
    for (int round = 0; round < 30; ++round)
      for (int worker = 0; worker < 3; ++worker) {
        const Batch& batch = loader.next(worker);
        values.insert(values.end(), batch.images.begin(), batch.images.end());
        values.insert(values.end(), batch.labels.begin(), batch.labels.end());
      }
    seen.push_back(std::move(values));
  }
  EXPECT_EQ(seen[0], seen[1]);
  EXPECT_EQ(seen[0], seen[2]);
}

}  // namespace
}  // namespace syncbn::test
