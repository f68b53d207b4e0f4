#include "train/storage/safetensors_header.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

// Bounds on what a hostile header can make the parser allocate, far above what any file of ours holds.
constexpr std::size_t kMaxEntries = 65536;   // tensors and metadata keys
constexpr std::size_t kMaxString = 1 << 20;  // between two quotes
constexpr std::size_t kMaxDims = 64;

struct DType {
  std::string_view name;
  std::uint64_t bytes;
};
constexpr std::array<DType, 15> kDTypes = {{{"BOOL", 1},
                                            {"U8", 1},
                                            {"I8", 1},
                                            {"F8_E5M2", 1},
                                            {"F8_E4M3", 1},
                                            {"I16", 2},
                                            {"U16", 2},
                                            {"F16", 2},
                                            {"BF16", 2},
                                            {"I32", 4},
                                            {"U32", 4},
                                            {"F32", 4},
                                            {"F64", 8},
                                            {"I64", 8},
                                            {"U64", 8}}};

// Text of the file as it may appear in a message: one line, bounded.
std::string shown(std::string_view text) {
  std::string result;
  for (const char c : text.substr(0, 160)) result += c >= ' ' && c < 127 ? c : '?';
  return text.size() > 160 ? result + "..." : result;
}

/// Receives nlohmann-json's events and accepts exactly
/// {"__metadata__": {string: string}, NAME: {"dtype": string, "shape": [n, ...], "data_offsets": [n, n]}, ...}.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(SafetensorsFile& file) : file_(file) {}

  const std::string& problem() const { return problem_; }
  std::vector<TensorPlace> take_places() { return std::move(places_); }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::start:
        return go(State::top);
      case State::top_value:
        return go(in_metadata_ ? State::metadata : State::tensor);
      default:
        return unexpected("an object");
    }
  }

  bool key(string_t& name) override {
    switch (state_) {
      case State::top:
        return top_key(name);
      case State::metadata:
        if (!count_entry()) return false;
        if (file_.metadata.contains(name)) return fail("metadata key " + shown(name) + " appears twice");
        key_ = std::move(name);
        return go(State::metadata_value);
      case State::tensor:
        return tensor_key(name);
      default:
        return unexpected("a key");
    }
  }

  bool string(string_t& value) override {
    if (state_ == State::metadata_value) {
      file_.metadata.emplace(std::move(key_), std::move(value));
      return go(State::metadata);
    }
    if (state_ == State::dtype) {
      if (dtype_rank(value) < 0) return fail("tensor " + shown(*name_) + " has the unknown type " + shown(value));
      tensor().dtype = std::move(value);
      return go(State::tensor);
    }
    return unexpected("a string");
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return unexpected("a huge number");
    if (state_ == State::in_shape) {
      if (tensor().shape.size() == kMaxDims) return fail("tensor " + shown(*name_) + " has too many dimensions");
      tensor().shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (state_ == State::in_offsets && offsets_ < 2) {
      (offsets_++ == 0 ? place().begin : place().end) = static_cast<std::size_t>(value);
      return true;
    }
    return unexpected("a number");
  }

  bool start_array(std::size_t) override {
    if (state_ == State::shape) return go(State::in_shape);
    if (state_ == State::offsets) return go(State::in_offsets);
    return unexpected("a list");
  }

  bool end_array() override {
    if (state_ == State::in_offsets && offsets_ != 2)
      return fail("tensor " + shown(*name_) + " needs two data_offsets");
    return go(State::tensor);
  }

  bool end_object() override {
    if (state_ == State::tensor && seen_ != kAllKeys) {
      return fail("tensor " + shown(*name_) + " lacks dtype, shape or data_offsets");
    }
    return go(state_ == State::top ? State::end : State::top);
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a truth value"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return unexpected("a fraction"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    return fail(fmt::format("malformed JSON at byte {}", position));
  }

 private:
  enum class State {
    start,
    top,
    top_value,
    metadata,
    metadata_value,
    tensor,
    dtype,
    shape,
    in_shape,
    offsets,
    in_offsets,
    end
  };
  static constexpr unsigned kDtypeKey = 1, kShapeKey = 2, kOffsetsKey = 4, kAllKeys = 7;

  bool top_key(string_t& name) {
    in_metadata_ = name == "__metadata__";
    if (in_metadata_) {
      if (metadata_seen_) return fail("__metadata__ appears twice");
      metadata_seen_ = true;
      return go(State::top_value);
    }
    if (!count_entry()) return false;
    const auto [entry, is_new] = file_.tensors.try_emplace(std::move(name));
    name_ = &entry->first;
    if (!is_new) return fail("tensor " + shown(*name_) + " appears twice");
    places_.push_back({0, 0, &entry->second});
    seen_ = 0;
    offsets_ = 0;
    return go(State::top_value);
  }

  bool tensor_key(const string_t& name) {
    const unsigned bit = name == "dtype"          ? kDtypeKey
                         : name == "shape"        ? kShapeKey
                         : name == "data_offsets" ? kOffsetsKey
                                                  : 0;
    if (bit == 0) return fail("tensor " + shown(*name_) + " has the unknown key " + shown(name));
    if (seen_ & bit) return fail("tensor " + shown(*name_) + " has the key " + shown(name) + " twice");
    seen_ |= bit;
    return go(bit == kDtypeKey ? State::dtype : bit == kShapeKey ? State::shape : State::offsets);
  }

  bool count_entry() { return ++entries_ <= kMaxEntries || fail(fmt::format("more than {} entries", kMaxEntries)); }
  bool unexpected(const char* what) { return fail(std::string("found ") + what + " where it does not belong"); }
  bool fail(std::string problem) {
    problem_ = std::move(problem);
    return false;
  }
  bool go(State state) {
    state_ = state;
    return true;
  }
  TensorPlace& place() { return places_.back(); }
  StoredTensor& tensor() { return *places_.back().tensor; }

  SafetensorsFile& file_;
  std::vector<TensorPlace> places_;
  State state_ = State::start;
  bool in_metadata_ = false, metadata_seen_ = false;
  const std::string* name_ = nullptr;  // of the current tensor
  std::string key_;                    // of the current metadata entry
  unsigned seen_ = 0;                  // keys of the current tensor
  int offsets_ = 0;
  std::size_t entries_ = 0;
  std::string problem_ = "malformed";
};

// The JSON library buffers what lies between two quotes several times over; refuse long stretches beforehand.
bool has_long_token(std::string_view header) {
  std::size_t last = 0;
  for (std::size_t i = 0; i < header.size(); ++i) {
    if (header[i] == '\\') {
      ++i;
    } else if (header[i] == '"') {
      if (i - last > kMaxString) return true;
      last = i;
    }
  }
  return header.size() - last > kMaxString;
}

// Places in ascending order must follow one another from 0 to data_bytes, each of its tensor's size.
std::string layout_problem(std::vector<TensorPlace>& places, std::size_t data_bytes) {
  std::sort(places.begin(), places.end(), [](const TensorPlace& a, const TensorPlace& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  std::size_t end = 0;
  for (const TensorPlace& place : places) {
    if (place.begin != end || place.end < place.begin || place.end > data_bytes) {
      return fmt::format("data from byte {} to {} leaves a hole, overlaps or passes the end at {}", place.begin,
                         place.end, data_bytes);
    }
    if (tensor_bytes(place.tensor->dtype, place.tensor->shape) != place.end - place.begin) {
      return fmt::format("{} bytes do not fill {}[{}]", place.end - place.begin, place.tensor->dtype,
                         fmt::join(place.tensor->shape, ", "));
    }
    end = place.end;
  }
  return end == data_bytes ? "" : fmt::format("{} bytes of data belong to no tensor", data_bytes - end);
}

}  // namespace

int dtype_rank(std::string_view dtype) {
  for (std::size_t i = 0; i < kDTypes.size(); ++i) {
    if (kDTypes[i].name == dtype) return static_cast<int>(i);
  }
  return -1;
}

std::optional<std::uint64_t> tensor_bytes(std::string_view dtype, const std::vector<std::int64_t>& shape) {
  const int rank = dtype_rank(dtype);
  if (rank < 0) return std::nullopt;
  std::uint64_t bytes = kDTypes[rank].bytes;
  for (const std::int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes)) return std::nullopt;
  }
  return bytes;
}

std::vector<TensorPlace> parse_header(std::string_view header, std::size_t data_bytes, const std::string& origin,
                                      SafetensorsFile& file) {
  const auto refuse = [&origin](const std::string& why) -> void {
    throw Error(fmt::format("{}: not a valid safetensors file: {}", origin, why), ExitCode::bad_data);
  };
  if (header.empty() || header.front() != '{') refuse("the header does not start with {");
  if (has_long_token(header)) refuse("the header has an overlong text");
  HeaderReader reader(file);
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &reader)) refuse(reader.problem());
  std::vector<TensorPlace> places = reader.take_places();
  const std::string problem = layout_problem(places, data_bytes);
  if (!problem.empty()) refuse(problem);
  return places;
}

}  // namespace syncbn
