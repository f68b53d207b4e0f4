#include "data/files/cache.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "data/files/byte_source.hpp"
#include "unit/data_files.hpp"

namespace syncbn::test {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr std::size_t kHeader = 16, kRest = 3 << 20;

/// As it lies in the cache.
Bytes with_checksum(Bytes bytes) {
  const XXH64_hash_t sum = XXH3_64bits(bytes.data(), bytes.size());
  bytes.resize(bytes.size() + sizeof sum);
  std::memcpy(bytes.data() + bytes.size() - sizeof sum, &sum, sizeof sum);
  return bytes;
}

/// A packed file, and a cache of its own.
class UnpackedCopies : public ::testing::Test {
 protected:
  UnpackedCopies() : plain_(kHeader + kRest) {
    for (std::size_t i = 0; i < plain_.size(); ++i) plain_[i] = static_cast<std::uint8_t>(i * i >> 7);
    file_ = folder_.write("images.xz", xz(plain_));
    use_cache(folder_.path() / "cache");
  }
  ~UnpackedCopies() override {
    before_.empty() ? unsetenv("XDG_CACHE_HOME") : setenv("XDG_CACHE_HOME", before_.c_str(), 1);
  }

  static void use_cache(const fs::path& path) { setenv("XDG_CACHE_HOME", path.c_str(), 1); }
  Bytes read() const {
    const auto source = ByteSource::open(file_, "fetch it again");
    Bytes header(kHeader);
    source->read_exactly(header, plain_.size());
    const SharedBytes rest = source->rest(kRest);
    header.insert(header.end(), rest.bytes.begin(), rest.bytes.end());
    return header;
  }
  /// All files in the cache.
  std::vector<fs::path> copies() const {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path() / "cache"))
      if (entry.is_regular_file()) files.push_back(entry.path());
    return files;
  }

  const char* const given_ = std::getenv("XDG_CACHE_HOME");
  const std::string before_ = given_ ? given_ : "";
  const TempFolder folder_;
  Bytes plain_;
  fs::path file_;
};

TEST_F(UnpackedCopies, AreMadeOnceAndUsed) {
  EXPECT_TRUE(read() == plain_);
  ASSERT_EQ(copies().size(), 1u);
  EXPECT_TRUE(read_file(copies()[0]) == with_checksum(slice(plain_, kHeader, plain_.size())));
  Bytes expected = plain_;
  expected[kHeader + 5] ^= 1;
  folder_.write(fs::relative(copies()[0], folder_.path()), with_checksum(slice(expected, kHeader, expected.size())));
  EXPECT_TRUE(read() == expected);
}

TEST_F(UnpackedCopies, ThatAreDamagedAreMadeAnew) {
  EXPECT_TRUE(read() == plain_);
  const Bytes good = read_file(copies().at(0));
  for (const std::size_t at : {std::size_t{0}, kRest - 1, kRest}) {
    Bytes bad = good;
    bad[at] ^= 1;
    folder_.write(fs::relative(copies().at(0), folder_.path()), bad);
    EXPECT_TRUE(read() == plain_);
    EXPECT_TRUE(read_file(copies().at(0)) == good);
  }
}

TEST_F(UnpackedCopies, BelongToOneContent) {
  EXPECT_TRUE(read() == plain_);
  plain_[kHeader] ^= 1;
  file_ = folder_.write("images.xz", xz(plain_));
  fs::last_write_time(file_, fs::file_time_type::clock::now() + std::chrono::seconds(1));
  EXPECT_TRUE(read() == plain_);
}

TEST_F(UnpackedCopies, OfAnotherSizeAreReplaced) {
  EXPECT_TRUE(read() == plain_);
  fs::resize_file(copies().at(0), kRest / 2);
  EXPECT_TRUE(read() == plain_);
  ASSERT_EQ(copies().size(), 1u);
  EXPECT_EQ(fs::file_size(copies()[0]), with_checksum(Bytes(kRest)).size());
}

TEST_F(UnpackedCopies, AreMadeByOneOfManyThatAsk) {
  std::vector<Bytes> found(8);
  {
    std::vector<std::jthread> threads;
    for (Bytes& bytes : found) threads.emplace_back([&] { bytes = read(); });
  }
  for (const Bytes& bytes : found) EXPECT_TRUE(bytes == plain_);
  EXPECT_EQ(copies().size(), 1u) << "and nothing under way";
}

TEST_F(UnpackedCopies, AreWaitedForWhileAnotherMakesThem) {
  EXPECT_TRUE(read() == plain_);
  const fs::path copy = copies().at(0), part = copy.string() + ".part";
  Bytes other = slice(plain_, kHeader, plain_.size());
  other[0] ^= 1;
  other = with_checksum(other);
  fs::remove(copy);
  auto maker = PartFile::open(part);
  ASSERT_TRUE(maker);
  EXPECT_FALSE(PartFile::open(part));
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    maker->append(other.data(), other.size());
    fs::rename(part, copy);
    maker.reset();
  });
  EXPECT_EQ(read()[kHeader], other[0]);
}

TEST_F(UnpackedCopies, AreNotNeeded) {
  use_cache(folder_.write("a_file", {}));
  EXPECT_TRUE(read() == plain_);
}

TEST_F(UnpackedCopies, AreNotMadeOfBadFiles) {
  file_ = folder_.write("images.xz", xz(slice(plain_, 0, plain_.size() - 1)));
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { read(); }), HasSubstr("is cut short"));
  plain_.push_back(0);
  file_ = folder_.write("images.xz", xz(plain_));
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { read(); }), HasSubstr("is too long"));
  EXPECT_TRUE(copies().empty());
}

}  // namespace
}  // namespace syncbn::test
