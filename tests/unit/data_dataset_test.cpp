#include "data/dataset.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <set>
#include <thread>

#include "data/catalog/image_files.hpp"
#include "unit/data_files.hpp"

namespace syncbn::test {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

Dataset small(const Bytes& labels = {0, 1, 2}) {
  Bytes pixels(labels.size() * 12);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i);
  return in_memory("small", {1, 3, 2, 2}, 3, pixels, labels);
}

TEST(Dataset, HandsOutImagesAndLabels) {
  const Dataset set = small();
  EXPECT_EQ(set.size(), 3);
  EXPECT_EQ(set.label(2), 2);
  EXPECT_EQ(set.image(1).height(), 2);
  EXPECT_EQ(set.image(1).pixels().size(), 12u);
  EXPECT_EQ(set.image(1).pixels()[0], 12);
}

TEST(Dataset, RefusesLabelsThatAreNoClass) {
  EXPECT_THAT(message_of(ExitCode::bad_data,
                         [] {
                           small({0, 3, 1});
                         }),
              HasSubstr("image 1 has label 3, expected 0 to 2"));
}

TEST(Dataset, FirstTakesAPrefix) {
  const Dataset set = small(), two = set.first(2);
  EXPECT_EQ(two.size(), 2);
  EXPECT_TRUE(std::ranges::equal(two.image(1).pixels(), set.image(1).pixels()));
  EXPECT_EQ(small().first(0).size(), 3);
  EXPECT_EQ(small().first(9).size(), 3);
}

TEST(Dataset, FingerprintDependsOnEverything) {
  Bytes other(36, 1);
  const std::set<std::uint64_t> prints = {
      small().fingerprint(),
      small({0, 1, 1}).fingerprint(),
      small().first(2).fingerprint(),
      in_memory("small", {1, 3, 2, 2}, 3, other, {0, 1, 2}).fingerprint(),
      in_memory("other", {1, 3, 2, 2}, 3, other, {0, 1, 2}).fingerprint(),
      in_memory("small", {1, 3, 4, 1}, 3, other, {0, 1, 2}).fingerprint(),
      in_memory("small", {1, 3, 2, 2}, 4, other, {0, 1, 2}).fingerprint(),
  };
  EXPECT_EQ(prints.size(), 7u);
  EXPECT_EQ(small().fingerprint(), small().fingerprint());
}

TEST(Builtin, IsAPureFunctionOfSeedSplitAndIndex) {
  const Dataset some = make_builtin_dataset(Split::train, 5, 30);
  const Dataset more = make_builtin_dataset(Split::train, 5, 60);
  EXPECT_EQ(some.fingerprint(), more.first(30).fingerprint());
  EXPECT_NE(some.fingerprint(), make_builtin_dataset(Split::train, 6, 30).fingerprint());
  EXPECT_NE(some.fingerprint(), make_builtin_dataset(Split::test, 5, 30).fingerprint());
}

TEST(Builtin, IsTheSameOnEveryMachine) {
  const Dataset set = make_builtin_dataset(Split::train, 1, 1000);
  Bytes pixels, labels;
  for (std::int64_t i = 0; i < set.size(); ++i) {
    std::ranges::copy(set.image(i).pixels(), std::back_inserter(pixels));
    labels.push_back(static_cast<std::uint8_t>(set.label(i)));
  }
  EXPECT_EQ(in_memory("builtin", {1, 3, 32, 32}, 10, pixels, labels).fingerprint(), 0xa899f6a7e2b2ad83u);
}

TEST(Builtin, ThreadsThatAskForAnImageAtOnceGetTheSame) {
  const Dataset set = make_builtin_dataset(Split::train, 1, 200);
  std::array<Bytes, 4> seen;
  std::vector<std::jthread> threads;
  for (Bytes& mine : seen)
    threads.emplace_back([&] {
      for (std::int64_t i = 0; i < set.size(); ++i) std::ranges::copy(set.image(i).pixels(), std::back_inserter(mine));
    });
  threads.clear();
  for (const Bytes& mine : seen) EXPECT_EQ(mine, seen[0]);
}

TEST(Builtin, HasBalancedClassesAndDefaultSizes) {
  const Dataset train = open_dataset("builtin", "", Split::train, 3);
  EXPECT_EQ(train.size(), 10'000);
  EXPECT_EQ(open_dataset("builtin", "", Split::test, 3).size(), 2'000);
  EXPECT_EQ(train.classes(), 10);
  EXPECT_EQ(train.channels(), 3);
  EXPECT_EQ(train.height(), 32);
  EXPECT_EQ(train.width(), 32);
  std::array<int, 10> counts{};
  for (std::int64_t i = 0; i < train.size(); ++i) ++counts[train.label(i)];
  for (const int count : counts) EXPECT_EQ(count, 1000);
}

TEST(Builtin, UsesTheWholeRangeWithoutClipping) {
  const Dataset set = make_builtin_dataset(Split::train, 1, 500);
  std::int64_t clipped = 0, total = 0;
  for (std::int64_t i = 0; i < set.size(); ++i) {
    const Image image = set.image(i);
    for (const int byte : image.pixels()) clipped += byte == 0 || byte == 255, ++total;
  }
  EXPECT_LT(clipped, total / 10);
}

TEST(OpenDataset, FindsMnistRawGzipAndXzUnderItsRootOrFolder) {
  const TempFolder folder;
  folder.write("mnist/train-images-idx3-ubyte.gz", gzip(idx_images(20, 28, 28)));
  folder.write("mnist/train-labels-idx1-ubyte.xz", xz(idx_labels(20)));
  for (const auto& path : {folder.path() / "mnist", folder.path()}) {
    const Dataset set = open_dataset("mnist", path.string(), Split::train);
    EXPECT_EQ(set.size(), 20);
    EXPECT_EQ(set.channels(), 1);
    EXPECT_EQ(set.classes(), 10);
    EXPECT_EQ(set.label(13), 3);
  }
  EXPECT_THROW(open_dataset("mnist", folder.str(), Split::test), Error);
}

TEST(OpenDataset, RefusesACountMismatch) {
  const TempFolder folder;
  folder.write("t10k-images-idx3-ubyte", idx_images(20, 3, 3));
  folder.write("t10k-labels-idx1-ubyte", idx_labels(21));
  const auto message =
      message_of(ExitCode::bad_data, [&] { open_dataset("fashion-mnist", folder.str(), Split::test); });
  EXPECT_THAT(message, HasSubstr("20 images"));
  EXPECT_THAT(message, HasSubstr("21 labels"));
  EXPECT_THAT(message, HasSubstr("syncbn data get fashion-mnist"));
}

TEST(OpenDataset, SaysWhereItLookedAndWhatToDo) {
  const TempFolder folder;
  folder.write("cifar-10/data_batch_1.bin", {});
  const auto message = message_of(ExitCode::bad_data, [&] { open_dataset("cifar10", folder.str(), Split::train); });
  EXPECT_THAT(message, HasSubstr((folder.path() / "cifar-10").string() + " (has no data_batch_2.bin[.gz|.xz])"));
  EXPECT_THAT(message, HasSubstr((folder.path() / "cifar-10-batches-bin").string() + " (no such folder)"));
  EXPECT_THAT(message, HasSubstr("syncbn data get cifar10"));
  EXPECT_THAT(message, HasSubstr("data.path="));
  EXPECT_THAT(message_of(ExitCode::usage, [] { open_dataset("imagenet", "", Split::train); }), HasSubstr("cifar100"));
}

/// A whole official-sized file: label = record % classes, pixels of little variety.
Bytes full_cifar(std::size_t records, std::size_t label_bytes, int classes) {
  Bytes bytes(records * (label_bytes + kCifarPixels));
  for (std::size_t r = 0; r < records; ++r) {
    std::uint8_t* record = bytes.data() + r * (label_bytes + kCifarPixels);
    record[label_bytes - 1] = static_cast<std::uint8_t>(r % static_cast<std::size_t>(classes));
    std::fill_n(record + label_bytes, kCifarPixels, static_cast<std::uint8_t>(r));
  }
  return bytes;
}

TEST(OpenDataset, ReadsCifar10FilesInOrder) {
  const TempFolder folder;
  Bytes bytes = full_cifar(10'000, 1, 10);
  for (int f = 1; f <= 5; ++f) {
    bytes[1] = static_cast<std::uint8_t>(100 + f);
    folder.write("cifar10/data_batch_" + std::to_string(f) + ".bin", bytes);
  }
  const Dataset set = open_dataset("cifar10", folder.str(), Split::train);
  EXPECT_EQ(set.size(), 50'000);
  const std::uint64_t set_before = set.fingerprint();
  EXPECT_EQ(set.classes(), 10);
  for (int f = 0; f < 5; ++f) {
    EXPECT_EQ(set.image(f * 10'000).pixels()[0], 101 + f);
    EXPECT_EQ(set.label(f * 10'000 + 1234), 4);
    EXPECT_EQ(set.image(f * 10'000 + 200).pixels()[3071], 200);
  }
  bytes[1] = 99;  // what ranks compare, and a resumed run, is made of all files
  folder.write("cifar10/data_batch_5.bin", bytes);
  EXPECT_NE(set_before, open_dataset("cifar10", folder.str(), Split::train).fingerprint());
  fs::resize_file(folder.path() / "cifar10" / "data_batch_4.bin", 9'999 * 3073);  // a cut between two records
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { open_dataset("cifar10", folder.str(), Split::train); }),
              HasSubstr("data_batch_4.bin is cut short: expected 30730000 bytes, found 30726927"));
}

TEST(OpenDataset, ReadsFineLabelsOfCifar100) {
  const TempFolder folder;
  folder.write("cifar-100-binary/test.bin", full_cifar(10'000, 2, 100));
  const Dataset set = open_dataset("cifar100", folder.str(), Split::test);
  EXPECT_EQ(set.size(), 10'000);
  EXPECT_EQ(set.classes(), 100);
  EXPECT_EQ(set.label(4567), 67);
}

}  // namespace
}  // namespace syncbn::test
