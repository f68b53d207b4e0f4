#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.hpp"
#include "data/files/byte_source.hpp"

namespace syncbn {

/// The position of an image in a file of equal records: [C, height, width] from byte `offset` of its record on.
struct RecordFormat {
  std::int64_t channels = 0, height = 0, width = 0;
  std::int64_t offset = 0;
  std::int64_t record_bytes = 0;
};

/// Images of one size in equal records.
class RecordImages final : public ImageSource {
 public:
  /// `files`: consecutive parts of the set, each with as many records as the first.
  RecordImages(const RecordFormat& format, std::vector<SharedBytes> files);
  Image image(std::int64_t i) const override;
  std::uint64_t hash(std::int64_t n, std::uint64_t seed) const override;

 private:
  RecordFormat format_;
  std::vector<SharedBytes> files_;
  std::int64_t per_file_;
};

}  // namespace syncbn
