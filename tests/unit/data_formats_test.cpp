#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "data/catalog/image_files.hpp"
#include "data/files/byte_source.hpp"
#include "syncbn/core/random.hpp"
#include "unit/data_files.hpp"

namespace syncbn::test {
namespace {

using ::testing::HasSubstr;

const std::string kRemedy = "fetch it again: syncbn data get mnist";

struct Packing {
  std::string suffix;
  std::function<Bytes(const Bytes&)> pack;
};
const std::vector<Packing>& packings() {
  static const std::vector<Packing> all = {{"", [](const Bytes& b) { return b; }},
                                           {".gz", [](const Bytes& b) { return gzip(b); }},
                                           {".xz", [](const Bytes& b) { return xz(b); }}};
  return all;
}

Bytes bytes_of(const SharedBytes& shared) {
  return {shared.bytes.begin(), shared.bytes.end()};
}

/// What reading `bytes` gives: the pixels, or nothing on Error(bad_data). Anything else fails the test.
std::optional<Bytes> try_images(const TempFolder& folder, const std::string& name, const Bytes& bytes) {
  const auto path = folder.write(name, bytes);
  try {
    return bytes_of(read_idx_images(path, kRemedy).pixels);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::bad_data) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(path.string()));
    EXPECT_THAT(error.what(), HasSubstr(kRemedy));
    return std::nullopt;
  }
}

TEST(Idx, ReadsRawGzipAndXz) {
  const TempFolder folder;
  for (const auto& [suffix, pack] : packings()) {
    const auto images = read_idx_images(folder.write("images" + suffix, pack(idx_images(11, 5, 4))), kRemedy);
    EXPECT_EQ(images.count, 11);
    EXPECT_EQ(images.height, 5);
    EXPECT_EQ(images.width, 4);
    EXPECT_EQ(bytes_of(images.pixels), slice(idx_images(11, 5, 4), 16, 16 + 11 * 20));
    const auto labels = read_idx_labels(folder.write("labels" + suffix, pack(idx_labels(11))), 10, kRemedy);
    EXPECT_EQ(labels, (Bytes{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0}));
  }
}

TEST(Idx, ReadsSeveralMembersOfOneGzipOrXz) {
  const TempFolder folder;
  const Bytes whole = idx_images(40, 9, 9);
  for (const auto& [suffix, pack] : packings()) {
    Bytes packed = pack(slice(whole, 0, 1000));
    const Bytes rest = pack(slice(whole, 1000, whole.size()));
    packed.insert(packed.end(), rest.begin(), rest.end());
    EXPECT_EQ(try_images(folder, "images" + suffix, packed), slice(whole, 16, whole.size()));
  }
}

TEST(Idx, RefusesEveryTruncation) {
  const TempFolder folder;
  for (const auto& [suffix, pack] : packings()) {
    const Bytes packed = pack(idx_images(3, 6, 5));
    for (std::size_t n = 0; n < packed.size(); ++n)
      EXPECT_EQ(try_images(folder, "images" + suffix, slice(packed, 0, n)), std::nullopt) << suffix << " cut to " << n;
    const Bytes packed_labels = pack(idx_labels(30));
    for (std::size_t n = 0; n < packed_labels.size(); ++n) {
      const auto path = folder.write("labels" + suffix, slice(packed_labels, 0, n));
      EXPECT_THROW(read_idx_labels(path, 10, kRemedy), Error) << suffix << " cut to " << n;
    }
  }
}

TEST(Idx, RefusesTrailingBytesInsideAndOutsideThePacking) {
  const TempFolder folder;
  for (const auto& [suffix, pack] : packings()) {
    Bytes longer = idx_images(3, 6, 5);
    longer.push_back(0);
    EXPECT_EQ(try_images(folder, "images" + suffix, pack(longer)), std::nullopt);
    Bytes packed = pack(idx_images(3, 6, 5));
    packed.push_back(77);
    EXPECT_EQ(try_images(folder, "images" + suffix, packed), std::nullopt);
  }
}

TEST(Idx, NamesPlaceExpectedAndFound) {
  const TempFolder folder;
  const auto message = [&](const Bytes& bytes) {
    return message_of(ExitCode::bad_data, [&] { read_idx_images(folder.write("images", bytes), kRemedy); });
  };
  Bytes wrong_magic = idx_images(2, 3, 3);
  wrong_magic[3] = 1;
  EXPECT_THAT(message(wrong_magic), HasSubstr("magic at byte 0 is 0x00000801, expected 0x00000803"));
  EXPECT_THAT(message(slice(idx_images(2, 3, 3), 0, 20)), HasSubstr("expected 34 bytes, found 20"));
  Bytes longer = idx_images(2, 3, 3);
  longer.push_back(1);
  EXPECT_THAT(message(longer), HasSubstr("expected 34 bytes, found more"));
  Bytes labels = idx_labels(12);
  labels[8 + 5] = 10;
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { read_idx_labels(folder.write("labels", labels), 10, kRemedy); }),
              HasSubstr("has label 10 at byte 13, expected 0 to 9"));
}

TEST(Idx, RefusesHeadersThatClaimTooMuchOrNothing) {
  const TempFolder folder;
  struct Header {
    std::uint32_t count, height, width;
  };
  for (const auto& [count, height, width] : {Header{0, 28, 28},
                                             {5, 0, 28},
                                             {5, 28, 0},
                                             {1'000'001, 1, 1},
                                             {0xffffffff, 28, 28},
                                             {1, 4097, 1},
                                             {1, 1, 4097},
                                             {1'000'000, 4096, 4096},
                                             {0x80000000, 0x80000000, 0x80000000},
                                             {1'000'000, 60, 60}}) {
    Bytes bytes;
    for (const std::uint32_t v : {0x00000803u, count, height, width}) put_u32(bytes, v);
    bytes.resize(4096);
    EXPECT_EQ(try_images(folder, "images", bytes), std::nullopt) << count << " " << height << " " << width;
    EXPECT_EQ(try_images(folder, "images.gz", gzip(bytes)), std::nullopt) << count << " " << height << " " << width;
  }
}

TEST(Idx, RefusesDecompressionBombs) {
  const TempFolder folder;
  Bytes bomb;
  for (const std::uint32_t v : {0x00000803u, 100'000u, 28u, 28u}) put_u32(bomb, v);
  bomb.resize(16 + 100'000 * 28 * 28);  // 78 MB of zeros that pack to 76 KB and less
  for (const auto* suffix : {".gz", ".xz"}) {
    const auto path = folder.write(std::string("images") + suffix, suffix[1] == 'g' ? gzip(bomb, 9) : xz(bomb));
    EXPECT_THAT(message_of(ExitCode::bad_data, [&] { read_idx_images(path, kRemedy); }),
                HasSubstr("unpacks to more than"));
  }
}

TEST(Idx, RefusesAnXzThatWantsAGiantDictionary) {
  const TempFolder folder;
  const Bytes plain = idx_images(2, 3, 3);
  lzma_options_lzma options;
  ASSERT_FALSE(lzma_lzma_preset(&options, 0));
  options.dict_size = 256u << 20;
  const lzma_filter filters[] = {{LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, nullptr}};
  Bytes packed(lzma_stream_buffer_bound(plain.size()));
  std::size_t bytes = 0;
  ASSERT_EQ(lzma_stream_buffer_encode(const_cast<lzma_filter*>(filters), LZMA_CHECK_CRC32, nullptr, plain.data(),
                                      plain.size(), packed.data(), &bytes, packed.size()),
            LZMA_OK);
  packed.resize(bytes);
  const auto path = folder.write("images.xz", packed);
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { read_idx_images(path, kRemedy); }), HasSubstr("dictionary"));
}

TEST(Idx, SurvivesFlippedBits) {
  const TempFolder folder;
  const Bytes plain = idx_images(3, 6, 5);
  for (const auto& [suffix, pack] : packings()) {
    const Bytes packed = pack(plain);
    for (std::size_t bit = 0; bit < 8 * packed.size(); bit += 3) {
      Bytes flipped = packed;
      flipped[bit / 8] ^= static_cast<std::uint8_t>(1u << bit % 8);
      const auto pixels = try_images(folder, "images" + suffix, flipped);
      if (!pixels) continue;
      EXPECT_EQ(pixels->size(), plain.size() - 16);
      if (suffix.empty()) continue;
      // A packed file has checksums: what is accepted (a flipped time stamp, say) has the right content.
      EXPECT_EQ(*pixels, slice(plain, 16, plain.size())) << suffix << " bit " << bit;
    }
  }
}

TEST(Idx, SurvivesRandomBytes) {
  const TempFolder folder;
  for (std::uint64_t round = 0; round < 500; ++round) {
    Random random(1, Purpose::test, round);
    const auto& [suffix, pack] = packings()[random.below(3)];
    Bytes bytes(random.below(200));
    std::generate(bytes.begin(), bytes.end(), [&] { return static_cast<std::uint8_t>(random.next()); });
    // Most files get a good beginning, or nothing would go deeper than the magic number.
    const Bytes good = random.below(2) ? pack(idx_images(2, 2, 2)) : Bytes{0, 0, 8, 3, 0, 0};
    if (random.below(4))
      std::copy_n(good.begin(), std::min(good.size(), bytes.size()) * random.below(5) / 4, bytes.begin());
    try_images(folder, "images" + suffix, bytes);
    const auto labels = folder.write("labels" + suffix, bytes);
    try {
      read_idx_labels(labels, 10, kRemedy);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::bad_data);
    }
  }
}

/// `records` records of a CIFAR-like file.
Bytes cifar_records(std::size_t records, const Bytes& labels) {
  Bytes bytes;
  for (std::size_t r = 0; r < records; ++r) {
    bytes.insert(bytes.end(), labels.begin(), labels.end());
    for (std::int64_t i = 0; i < kCifarPixels; ++i)
      bytes.push_back(static_cast<std::uint8_t>(r + static_cast<std::size_t>(i) % 251));
  }
  return bytes;
}

TEST(Cifar, ReadsRecordsWithOneAndTwoLabels) {
  const TempFolder folder;
  using Labels = std::vector<std::uint16_t>;
  for (const auto& [suffix, pack] : packings()) {
    const Bytes one = cifar_records(3, {7}), two = cifar_records(2, {19, 99});
    const auto ten = read_cifar(folder.write("ten" + suffix, pack(one)), {3, {10}}, kRemedy);
    EXPECT_EQ(ten.labels, (Labels{7, 7, 7}));
    EXPECT_EQ(bytes_of(ten.records), one);
    const auto hundred = read_cifar(folder.write("hundred" + suffix, pack(two)), {2, {20, 100}}, kRemedy);
    EXPECT_EQ(hundred.labels, (Labels{99, 99}));
    EXPECT_EQ(bytes_of(hundred.records), two);
  }
}

TEST(Cifar, RefusesMalformedFiles) {
  const TempFolder folder;
  const auto message = [&](const Bytes& bytes, const CifarFormat& format) {
    return message_of(ExitCode::bad_data, [&] { read_cifar(folder.write("file.bin", bytes), format, kRemedy); });
  };
  const Bytes good = cifar_records(3, {7});
  EXPECT_THAT(message(slice(good, 0, 2 * 3073), {3, {10}}), HasSubstr("expected 9219 bytes, found 6146"));
  EXPECT_THAT(message(slice(good, 0, 5000), {3, {10}}), HasSubstr("expected 9219 bytes, found 5000"));
  EXPECT_THAT(message({}, {3, {10}}), HasSubstr("found 0"));
  EXPECT_THAT(message(cifar_records(4, {7}), {3, {10}}), HasSubstr("found more"));
  EXPECT_THAT(message(cifar_records(3, {10}), {3, {10}}), HasSubstr("label 10 at byte 0, expected 0 to 9"));
  EXPECT_THAT(message(cifar_records(3, {20, 5}), {3, {20, 100}}), HasSubstr("label 20 at byte 0, expected 0 to 19"));
  EXPECT_THAT(message(cifar_records(3, {5, 100}), {3, {20, 100}}), HasSubstr("label 100 at byte 1, expected 0 to 99"));
}

TEST(ByteSource, NamesAFileThatCannotBeRead) {
  const TempFolder folder;
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { ByteSource::open(folder.path() / "absent", kRemedy); }),
              HasSubstr("No such file"));
}

}  // namespace
}  // namespace syncbn::test
