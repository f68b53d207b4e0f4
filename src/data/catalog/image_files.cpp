#include "data/catalog/image_files.hpp"

#include <fmt/format.h>

#include <array>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

constexpr std::uint32_t kImagesMagic = 0x00000803;
constexpr std::uint32_t kLabelsMagic = 0x00000801;
constexpr std::uint32_t kMaxImages = 1'000'000;
constexpr std::uint32_t kMaxExtent = 4096;
constexpr std::uint64_t kMaxBytes = std::uint64_t{4} << 30;

std::uint32_t read_u32(ByteSource& source, std::uint64_t header_bytes) {
  std::array<std::uint8_t, 4> b;
  source.read_exactly(b, header_bytes);
  return std::uint32_t{b[0]} << 24 | std::uint32_t{b[1]} << 16 | std::uint32_t{b[2]} << 8 | b[3];
}

void expect_magic(ByteSource& source, std::uint32_t expected, std::uint64_t header_bytes, const char* what) {
  const std::uint32_t found = read_u32(source, header_bytes);
  if (found != expected)
    source.fail(
        fmt::format("is no IDX file of {}: magic at byte 0 is {:#010x}, expected {:#010x}", what, found, expected));
}

std::uint32_t read_bounded(ByteSource& source, std::uint64_t header_bytes, const char* what, std::uint32_t limit) {
  const std::uint64_t at = source.position();
  const std::uint32_t value = read_u32(source, header_bytes);
  if (value < 1 || value > limit)
    source.fail(fmt::format("has {} {} at byte {}, expected 1 to {}", what, value, at, limit));
  return value;
}

void check_label(const ByteSource& source, std::uint64_t at, int label, int classes) {
  if (label >= classes) source.fail(fmt::format("has label {} at byte {}, expected 0 to {}", label, at, classes - 1));
}

}  // namespace

IdxImages read_idx_images(const std::filesystem::path& path, const std::string& remedy) {
  constexpr std::uint64_t kHeader = 16;
  const auto source = ByteSource::open(path, remedy);
  expect_magic(*source, kImagesMagic, kHeader, "images");
  const std::uint64_t count = read_bounded(*source, kHeader, "image count", kMaxImages);
  const std::uint64_t height = read_bounded(*source, kHeader, "image height", kMaxExtent);
  const std::uint64_t width = read_bounded(*source, kHeader, "image width", kMaxExtent);
  const std::uint64_t bytes = count * height * width;
  if (bytes > kMaxBytes) source->fail(fmt::format("claims {} bytes of pixels, more than {}", bytes, kMaxBytes));
  return {static_cast<std::int64_t>(count), static_cast<std::int64_t>(height), static_cast<std::int64_t>(width),
          source->rest(bytes)};
}

std::vector<std::uint8_t> read_idx_labels(const std::filesystem::path& path, int classes, const std::string& remedy) {
  constexpr std::uint64_t kHeader = 8;
  const auto source = ByteSource::open(path, remedy);
  expect_magic(*source, kLabelsMagic, kHeader, "labels");
  const std::uint64_t count = read_bounded(*source, kHeader, "label count", kMaxImages);
  const SharedBytes labels = source->rest(count);
  for (std::size_t i = 0; i < count; ++i) check_label(*source, kHeader + i, labels.bytes[i], classes);
  return {labels.bytes.begin(), labels.bytes.end()};
}

CifarFile read_cifar(const std::filesystem::path& path, const CifarFormat& format, const std::string& remedy) {
  const auto source = ByteSource::open(path, remedy);
  CifarFile file{source->rest(format.file_bytes()), {}};
  for (std::int64_t at = 0; at < std::ssize(file.records.bytes); at += format.record_bytes()) {
    const auto labels = file.records.bytes.subspan(static_cast<std::size_t>(at), format.label_classes.size());
    for (std::size_t i = 0; i < labels.size(); ++i)
      check_label(*source, static_cast<std::uint64_t>(at) + i, labels[i], format.label_classes[i]);
    file.labels.push_back(labels.back());
  }
  return file;
}

}  // namespace syncbn
