#include "data/files/byte_source.hpp"

#include <fmt/format.h>
#include <lzma.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "data/files/cache.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

constexpr std::size_t kChunk = 64 * 1024;
constexpr std::size_t kMaxStep = 1u << 20;            // so that the ratio is checked often
constexpr std::uint64_t kMaxDictionary = 128u << 20;  // `xz -9` needs 65 MiB
/// No image file compresses better than this; a higher ratio is a decompression bomb.
constexpr std::uint64_t kMaxRatio = 256;
constexpr std::uint64_t kRatioSlack = 16u << 20;
constexpr std::uint64_t kLeastCopied = 1u << 20;  // smaller files are unpacked quickly

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using OwnedFile = std::unique_ptr<std::FILE, CloseFile>;

/// Maps a file's bytes from `begin` to its end at `end`; returns nothing if it has another size or cannot be mapped.
std::optional<SharedBytes> map_file(int fd, std::uint64_t begin, std::uint64_t end) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || static_cast<std::uint64_t>(status.st_size) != end) return {};
  void* const data = mmap(nullptr, end, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return {};
  const std::shared_ptr<const void> owner(data, [end](void* mapped) { munmap(mapped, end); });
  return SharedBytes{owner, std::span(static_cast<const std::uint8_t*>(data), end).subspan(begin)};
}

class RawSource final : public ByteSource {
 public:
  RawSource(const std::filesystem::path& path, const std::string& remedy)
      : ByteSource(path, remedy), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) fail(fmt::format("cannot be opened ({})", std::strerror(errno)));
    std::setvbuf(file_.get(), nullptr, _IOFBF, kChunk);  // records of a few KiB would be read page by page
  }
  std::size_t read_some(std::span<std::uint8_t> out) override {
    const std::size_t n = std::fread(out.data(), 1, out.size(), file_.get());
    if (n < out.size() && std::ferror(file_.get())) fail(fmt::format("cannot be read ({})", std::strerror(errno)));
    return n;
  }

  /// Returns nothing for a file of another size: reading it reports what is wrong.
  std::optional<SharedBytes> map_rest(std::uint64_t bytes) override {
    return map_file(fileno(file_.get()), position(), position() + bytes);
  }

 private:
  OwnedFile file_;
};

/// Common part of .gz and .xz: packed bytes in, unpacked bytes out, a limit on the ratio of the two.
class PackedSource : public ByteSource {
 public:
  PackedSource(const std::filesystem::path& path, const std::string& remedy)
      : ByteSource(path, remedy), packed_(path, remedy), packed_path_(path) {}

  std::optional<SharedBytes> map_rest(std::uint64_t bytes) override {
    if (bytes < kLeastCopied) return {};
    return copy_.emplace(packed_path_, position(), bytes).bytes();
  }
  void keep_rest(std::span<const std::uint8_t> bytes) override {
    if (copy_) copy_->keep(bytes);
  }

 protected:
  /// Refills the (empty) input; returns false at the end of the file.
  bool refill() {
    input_ = std::span(buffer_).first(packed_.read(buffer_));
    return !input_.empty();
  }
  void check_ratio() const {
    if (position() > kRatioSlack + kMaxRatio * packed_.position())
      fail(fmt::format("unpacks to more than {} times its size, which no image file does", kMaxRatio));
  }
  [[noreturn]] void fail_truncated() const {
    fail(fmt::format("ends in the middle of its compressed data, at byte {}", packed_.position()));
  }
  [[noreturn]] void fail_malformed(const char* format, const char* reason) const {
    fail(fmt::format("is not well-formed {} near byte {} ({})", format, packed_.position() - input_.size(), reason));
  }

  std::span<std::uint8_t> input_;

 private:
  RawSource packed_;
  const std::filesystem::path packed_path_;
  std::optional<UnpackedCopy> copy_;  // copy of the result of rest()
  std::array<std::uint8_t, kChunk> buffer_;
};

class GzipSource final : public PackedSource {
 public:
  GzipSource(const std::filesystem::path& path, const std::string& remedy) : PackedSource(path, remedy) {
    constexpr int kGzipOnly = 15 + 16;
    if (inflateInit2(&stream_, kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  std::size_t read_some(std::span<std::uint8_t> out) override {
    check_ratio();
    stream_.next_out = out.data();
    stream_.avail_out = static_cast<uInt>(out.size());
    const auto room = stream_.avail_out;
    while (stream_.avail_out == room) {
      if (input_.empty() && !refill()) {
        if (inside_member_) fail_truncated();
        return 0;
      }
      if (!inside_member_) inflateReset(&stream_);  // a .gz may consist of several members
      inside_member_ = true;
      inflate_once();
    }
    return room - stream_.avail_out;
  }

 private:
  void inflate_once() {
    stream_.next_in = input_.data();
    stream_.avail_in = static_cast<uInt>(input_.size());
    const int status = inflate(&stream_, Z_NO_FLUSH);
    if (status == Z_MEM_ERROR) throw std::bad_alloc();
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
      fail_malformed("gzip", stream_.msg ? stream_.msg : "needs a dictionary");
    input_ = input_.last(stream_.avail_in);
    if (status == Z_STREAM_END) inside_member_ = false;
  }

  z_stream stream_{};
  bool inside_member_ = true;  // also before the first member: an empty file is a truncated one
};

class XzSource final : public PackedSource {
 public:
  XzSource(const std::filesystem::path& path, const std::string& remedy) : PackedSource(path, remedy) {
    if (lzma_stream_decoder(&stream_, kMaxDictionary, LZMA_CONCATENATED) != LZMA_OK) throw std::bad_alloc();
  }
  ~XzSource() override { lzma_end(&stream_); }

  std::size_t read_some(std::span<std::uint8_t> out) override {
    if (finished_) return 0;
    check_ratio();
    stream_.next_out = out.data();
    stream_.avail_out = out.size();
    while (stream_.avail_out == out.size() && !finished_) {
      const bool at_end = input_.empty() && !refill();
      stream_.next_in = input_.data();
      stream_.avail_in = input_.size();
      const lzma_ret status = lzma_code(&stream_, at_end ? LZMA_FINISH : LZMA_RUN);
      input_ = input_.last(stream_.avail_in);
      judge(status);
    }
    return out.size() - stream_.avail_out;
  }

 private:
  void judge(lzma_ret status) {
    switch (status) {
      case LZMA_OK:
        return;
      case LZMA_STREAM_END:
        finished_ = true;
        return;
      case LZMA_MEM_ERROR:
        throw std::bad_alloc();
      case LZMA_BUF_ERROR:
        fail_truncated();
      case LZMA_MEMLIMIT_ERROR:
        fail_malformed("xz", "asks for a dictionary above 128 MiB");
      case LZMA_FORMAT_ERROR:
        fail_malformed("xz", "wrong magic");
      case LZMA_OPTIONS_ERROR:
        fail_malformed("xz", "unknown options");
      default:
        fail_malformed("xz", "corrupt data");
    }
  }

  lzma_stream stream_ = LZMA_STREAM_INIT;
  bool finished_ = false;
};

}  // namespace

SharedBytes share(std::vector<std::uint8_t> bytes) {
  const auto owner = std::make_shared<const std::vector<std::uint8_t>>(std::move(bytes));
  return {owner, *owner};
}

std::optional<SharedBytes> map_file(const std::filesystem::path& path, std::uint64_t bytes) {
  const OwnedFile file(std::fopen(path.c_str(), "rb"));
  return file ? map_file(fileno(file.get()), 0, bytes) : std::nullopt;
}

std::unique_ptr<ByteSource> ByteSource::open(const std::filesystem::path& path, const std::string& remedy) {
  if (path.extension() == ".gz") return std::make_unique<GzipSource>(path, remedy);
  if (path.extension() == ".xz") return std::make_unique<XzSource>(path, remedy);
  return open_packed(path, remedy);
}

std::unique_ptr<ByteSource> ByteSource::open_packed(const std::filesystem::path& path, const std::string& remedy) {
  return std::make_unique<RawSource>(path, remedy);
}

std::size_t ByteSource::read(std::span<std::uint8_t> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const std::size_t n = read_some(out.subspan(done, std::min(out.size() - done, kMaxStep)));
    if (n == 0) break;
    done += n;
    position_ += n;
  }
  return done;
}

void ByteSource::read_exactly(std::span<std::uint8_t> out, std::uint64_t expected) {
  if (read(out) < out.size()) fail(fmt::format("is cut short: expected {} bytes, found {}", expected, position_));
}

SharedBytes ByteSource::rest(std::uint64_t bytes) {
  constexpr std::uint64_t kFirstStep = 1u << 20;
  if (auto mapped = map_rest(bytes)) return *mapped;
  const std::uint64_t whole = position_ + bytes;
  std::vector<std::uint8_t> data;
  while (data.size() < bytes) {
    const std::size_t done = data.size();
    data.resize(std::min<std::uint64_t>(bytes, std::max<std::uint64_t>(kFirstStep, 2 * done)));
    read_exactly(std::span(data).subspan(done), whole);
  }
  expect_end();
  keep_rest(data);
  return share(std::move(data));
}

void ByteSource::expect_end() {
  const std::uint64_t expected = position_;
  std::array<std::uint8_t, 1> extra;
  if (read(extra) != 0) fail(fmt::format("is too long: expected {} bytes, found more", expected));
}

void ByteSource::fail(const std::string& what) const {
  throw Error(fmt::format("{} {}; {}", path_.string(), what, remedy_), ExitCode::bad_data);
}

std::optional<std::filesystem::path> find_file(const std::filesystem::path& folder, const std::string& name) {
  for (const char* suffix : {"", ".gz", ".xz"}) {
    auto path = folder / (name + suffix);
    std::error_code ignored;
    if (std::filesystem::is_regular_file(path, ignored)) return path;
  }
  return std::nullopt;
}

}  // namespace syncbn
