#include "train/storage/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <cstring>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "syncbn/core/error.hpp"
#include "train/storage/safetensors_header.hpp"

namespace syncbn {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are stored little-endian, as they lie in memory");

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump();
}

std::string header_of(const SafetensorsFile& file, const std::vector<const std::string*>& order) {
  std::string header = "{";
  if (!file.metadata.empty()) {
    header += "\"__metadata__\":{";
    const char* comma = "";
    for (const auto& [key, value] : file.metadata) {
      header += fmt::format("{}{}:{}", comma, quoted(key), quoted(value));
      comma = ",";
    }
    header += "}";
  }
  std::size_t offset = 0;
  for (const std::string* name : order) {
    const StoredTensor& tensor = file.tensors.at(*name);
    const std::size_t end = offset + tensor.data.size();
    header +=
        fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", header.size() > 1 ? "," : "",
                    quoted(*name), tensor.dtype, fmt::join(tensor.shape, ","), offset, end);
    offset = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

/// Exact but for f64, which is rounded.
template <class T, class Bits>
std::vector<float> as_f32(const StoredTensor& tensor) {
  std::vector<float> values(tensor.data.size() / sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) {
    Bits bits = 0;
    std::memcpy(&bits, &tensor.data[i * sizeof bits], sizeof bits);
    values[i] = static_cast<float>(Eigen::numext::bit_cast<T>(bits));
  }
  return values;
}

/// "FILE: tensor NAME", for messages.
std::string place_of(const SafetensorsFile& file, const std::string& name) {
  return fmt::format("{}{}tensor {}", file.origin, file.origin.empty() ? "" : ": ", name);
}

/// The tensor, of this type or one of those that `others` names, too.
const StoredTensor& find(const SafetensorsFile& file, const std::string& name, const char* dtype,
                         std::initializer_list<const char*> others = {}) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end()) {
    throw Error(fmt::format("{} is missing: the file belongs to another model", place_of(file, name)),
                ExitCode::bad_data);
  }
  const std::string& has = found->second.dtype;
  if (has != dtype && std::find(others.begin(), others.end(), has) == others.end()) {
    throw Error(fmt::format("{} has type {} instead of {}", place_of(file, name), has, dtype), ExitCode::bad_data);
  }
  return found->second;
}

void put(SafetensorsFile& file, const std::string& name, const std::string& dtype, std::vector<std::int64_t> shape,
         std::span<const std::byte> bytes) {
  const auto expected = tensor_bytes(dtype, shape);
  if (!expected || *expected != bytes.size()) {
    throw Error(
        fmt::format("tensor {}: {} bytes do not fill {}[{}]", name, bytes.size(), dtype, fmt::join(shape, ", ")));
  }
  file.tensors[name] = {dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

}  // namespace

void SafetensorsFile::put_f32(const std::string& name, std::vector<std::int64_t> shape, std::span<const float> values) {
  put(*this, name, "F32", std::move(shape), std::as_bytes(values));
}

void SafetensorsFile::put_i64(const std::string& name, std::int64_t value) {
  put(*this, name, "I64", {}, std::as_bytes(std::span(&value, 1)));
}

std::vector<float> SafetensorsFile::f32(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const StoredTensor& tensor = find(*this, name, "F32", {"F16", "BF16", "F64"});
  if (tensor.shape != shape) {
    throw Error(fmt::format("{} has shape [{}] instead of [{}]: the file belongs to another model",
                            place_of(*this, name), fmt::join(tensor.shape, ", "), fmt::join(shape, ", ")),
                ExitCode::bad_data);
  }
  if (tensor.dtype == "F16") return as_f32<Eigen::half, std::uint16_t>(tensor);
  if (tensor.dtype == "BF16") return as_f32<Eigen::bfloat16, std::uint16_t>(tensor);
  if (tensor.dtype == "F64") return as_f32<double, std::uint64_t>(tensor);
  std::vector<float> values(tensor.data.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

std::int64_t SafetensorsFile::i64(const std::string& name) const {
  const StoredTensor& tensor = find(*this, name, "I64");
  std::int64_t value = 0;
  if (tensor.data.size() != sizeof value) {
    throw Error(fmt::format("{} has shape [{}] instead of []", place_of(*this, name), fmt::join(tensor.shape, ", ")),
                ExitCode::bad_data);
  }
  std::memcpy(&value, tensor.data.data(), sizeof value);
  return value;
}

std::vector<std::byte> SafetensorsFile::serialize() const {
  std::vector<const std::string*> order;
  std::size_t data_bytes = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto expected = tensor_bytes(tensor.dtype, tensor.shape);
    if (!expected || *expected != tensor.data.size()) {
      throw Error(fmt::format("tensor {}: {} bytes do not fill {}[{}]", name, tensor.data.size(), tensor.dtype,
                              fmt::join(tensor.shape, ", ")));
    }
    order.push_back(&name);
    data_bytes += tensor.data.size();
  }
  // Stable, so that equal types stay sorted by name.
  std::stable_sort(order.begin(), order.end(), [this](const std::string* a, const std::string* b) {
    return dtype_rank(tensors.at(*a).dtype) > dtype_rank(tensors.at(*b).dtype);
  });

  const std::string header = header_of(*this, order);
  const std::uint64_t length = header.size();
  std::vector<std::byte> bytes(sizeof length + header.size() + data_bytes);
  std::byte* out = bytes.data();
  const auto append = [&out](const void* from, std::size_t n) {
    if (n > 0) std::memcpy(out, from, n);
    out += n;
  };
  append(&length, sizeof length);
  append(header.data(), header.size());
  for (const std::string* name : order) append(tensors.at(*name).data.data(), tensors.at(*name).data.size());
  return bytes;
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& origin) {
  std::uint64_t length = 0;
  if (bytes.size() < sizeof length) {
    throw Error(fmt::format("{}: {} bytes are too few for a safetensors file", origin, bytes.size()),
                ExitCode::bad_data);
  }
  std::memcpy(&length, bytes.data(), sizeof length);
  // A zip archive, or, before PyTorch 1.6, a pickle.
  const bool zip = bytes[0] == std::byte{'P'} && bytes[1] == std::byte{'K'}, pickle = bytes[0] == std::byte{0x80};
  if ((zip || pickle) && length > kMaxHeaderBytes) {
    throw Error(fmt::format("{}: looks like a file of PyTorch's torch.save: convert it in Python: "
                            "safetensors.torch.save_file(torch.load(FILE), \"NAME.safetensors\")",
                            origin),
                ExitCode::bad_data);
  }
  const std::span<const std::byte> rest = bytes.subspan(sizeof length);
  if (length > kMaxHeaderBytes || length > rest.size()) {
    throw Error(fmt::format("{}: header of {} bytes in a file of {}: not a safetensors file, or a truncated one",
                            origin, length, bytes.size()),
                ExitCode::bad_data);
  }
  const auto header = rest.first(static_cast<std::size_t>(length));
  const auto data = rest.subspan(static_cast<std::size_t>(length));
  SafetensorsFile file;
  file.origin = origin;
  for (const TensorPlace& place :
       parse_header({reinterpret_cast<const char*>(header.data()), header.size()}, data.size(), origin, file)) {
    const auto part = data.subspan(place.begin, place.end - place.begin);
    place.tensor->data.assign(part.begin(), part.end());
  }
  return file;
}

}  // namespace syncbn
