#include "data/sources/record_images.hpp"

#include <xxhash.h>

#include <algorithm>

namespace syncbn {

RecordImages::RecordImages(const RecordFormat& format, std::vector<SharedBytes> files)
    : format_(format),
      files_(std::move(files)),
      per_file_(files_.empty() ? 0 : std::ssize(files_.front().bytes) / format.record_bytes) {}

Image RecordImages::image(std::int64_t i) const {
  const auto at = static_cast<std::size_t>(i % per_file_ * format_.record_bytes + format_.offset);
  const auto bytes = static_cast<std::size_t>(format_.channels * format_.height * format_.width);
  return {format_.height, format_.width, files_[i / per_file_].bytes.subspan(at, bytes)};
}

std::uint64_t RecordImages::hash(std::int64_t n, std::uint64_t seed) const {
  for (std::size_t f = 0; n > 0; ++f, n -= per_file_) {
    const std::int64_t bytes = std::min(n, per_file_) * format_.record_bytes;
    seed = XXH3_64bits_withSeed(files_[f].bytes.data(), static_cast<std::size_t>(bytes), seed);
  }
  return seed;
}

}  // namespace syncbn
