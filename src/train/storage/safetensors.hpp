#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace syncbn {

/// A tensor inside a safetensors file. Types used here: F32, F16, BF16, F64, I64, U8.
struct StoredTensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;
};

/// The safetensors layout: u64le header length, JSON header padded with spaces to a multiple of 8, then the data
/// without holes. Tensors are written sorted by alignment then name, as the reference implementation does; the bytes
/// are a pure function of the contents.
struct SafetensorsFile {
  std::map<std::string, StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::string origin = {};  ///< what parse() was told

  void put_f32(const std::string& name, std::vector<std::int64_t> shape, std::span<const float> values);
  void put_i64(const std::string& name, std::int64_t value);  ///< shape []
  /// The values of an F32, F16, BF16 or F64 tensor, the last rounded. Throws Error(bad_data) if it is absent or other.
  std::vector<float> f32(const std::string& name, const std::vector<std::int64_t>& shape) const;
  std::int64_t i64(const std::string& name) const;

  std::vector<std::byte> serialize() const;
  /// Throws Error(bad_data) on anything malformed (length, JSON, overlap, hole, duplicate key, size not matching dtype
  /// x shape); allocates at most about twice the bytes given. `origin` stands in messages.
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::string& origin);
};

}  // namespace syncbn
