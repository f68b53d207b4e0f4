#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/files/byte_source.hpp"

namespace syncbn {

/// Readers of the formats of the public image sets. Every function throws Error(bad_data) naming file, place, expected
/// and found values, and ending in `remedy`. Files may be raw, .gz or .xz.

/// Images of an IDX file: magic 0x00000803, count, height, width (big-endian 32 bits each), then count*height*width
/// bytes.
struct IdxImages {
  std::int64_t count = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  SharedBytes pixels;  ///< [count, height, width]
};
IdxImages read_idx_images(const std::filesystem::path& path, const std::string& remedy);

/// Labels of an IDX file: magic 0x00000801, count, then count bytes, each below `classes`.
std::vector<std::uint8_t> read_idx_labels(const std::filesystem::path& path, int classes, const std::string& remedy);

/// A CIFAR file has no header: it consists of `records` of label bytes (CIFAR-10: one; CIFAR-100: coarse, then fine),
/// followed by 3*32*32 pixels. The count is part of the format: only it reveals a file truncated between two records.
constexpr std::int64_t kCifarPixels = 3 * 32 * 32;
struct CifarFormat {
  std::int64_t records = 0;
  std::vector<int> label_classes;  ///< number of classes of each label byte; the last byte is the label kept
  std::int64_t record_bytes() const { return std::ssize(label_classes) + kCifarPixels; }
  std::uint64_t file_bytes() const { return static_cast<std::uint64_t>(records * record_bytes()); }
};
struct CifarFile {
  SharedBytes records;                ///< [records, record_bytes]
  std::vector<std::uint16_t> labels;  ///< [records]
};
CifarFile read_cifar(const std::filesystem::path& path, const CifarFormat& format, const std::string& remedy);

}  // namespace syncbn
