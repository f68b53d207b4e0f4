#include "train/storage/safetensors.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "syncbn/core/error.hpp"
#include "syncbn/core/random.hpp"

namespace syncbn {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_of(const std::string& header, std::size_t data_bytes, std::optional<std::uint64_t> length = {}) {
  const std::uint64_t n = length.value_or(header.size());
  Bytes bytes(8 + header.size() + data_bytes, std::byte{1});
  std::memcpy(bytes.data(), &n, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

/// The message of the refusal, or "accepted". Anything but Error(bad_data) fails the test.
std::string refusal(const Bytes& bytes) {
  try {
    SafetensorsFile::parse(bytes, "x.safetensors");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::bad_data) << e.what();
    const std::string message = e.what();
    EXPECT_TRUE(message.starts_with("x.safetensors: ")) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 1000u);
    return message;
  }
  return "accepted";
}

SafetensorsFile small_file() {
  SafetensorsFile file;
  file.metadata = {{"format", "pt"}, {"quote", "a \"b\" \\ \xc3\xa9"}};
  file.put_f32("layer1.0.bn1.weight", {3}, std::vector<float>{1, -2, 0.5f});
  file.put_f32("conv1.weight", {1, 2, 1}, std::vector<float>{3, 4});
  file.put_f32("empty", {0, 5}, {});
  file.put_i64("bn1.num_batches_tracked", 1ll << 40);
  file.tensors["mask"] = {"U8", {3}, {std::byte{1}, std::byte{2}, std::byte{3}}};
  return file;
}

bool same(const SafetensorsFile& a, const SafetensorsFile& b) {
  return a.metadata == b.metadata && a.tensors.size() == b.tensors.size() &&
         std::equal(a.tensors.begin(), a.tensors.end(), b.tensors.begin(), [](const auto& x, const auto& y) {
           return x.first == y.first && x.second.dtype == y.second.dtype && x.second.shape == y.second.shape &&
                  x.second.data == y.second.data;
         });
}

TEST(Safetensors, RoundTrip) {
  const SafetensorsFile file = small_file();
  const Bytes bytes = file.serialize();
  const SafetensorsFile read = SafetensorsFile::parse(bytes, "x");
  EXPECT_TRUE(same(read, file));
  EXPECT_EQ(read.serialize(), bytes);
  EXPECT_EQ(read.f32("layer1.0.bn1.weight", {3}), (std::vector<float>{1, -2, 0.5f}));
  EXPECT_EQ(read.i64("bn1.num_batches_tracked"), 1ll << 40);
  EXPECT_TRUE(same(SafetensorsFile::parse(SafetensorsFile{}.serialize(), "x"), SafetensorsFile{}));
}

// The layout of the reference implementation: wide types first, then names; header padded to a multiple of 8.
TEST(Safetensors, WritesTheReferenceLayout) {
  SafetensorsFile file;
  file.metadata = {{"format", "pt"}};
  file.put_f32("b", {2}, std::vector<float>{1, 2});
  file.put_f32("a", {1}, std::vector<float>{3});
  file.put_i64("z", 7);
  file.tensors["m"] = {"U8", {1}, {std::byte{9}}};
  const Bytes bytes = file.serialize();
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  std::string header(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  EXPECT_EQ(length % 8, 0u);
  header.erase(header.find_last_not_of(' ') + 1);
  EXPECT_EQ(
      header,
      R"({"__metadata__":{"format":"pt"},"z":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},)"
      R"("m":{"dtype":"U8","shape":[1],"data_offsets":[20,21]}})");
  EXPECT_EQ(bytes.size(), 8 + length + 21);
}

TEST(Safetensors, ReadsWhatItIsAskedForOrSaysWhy) {
  const SafetensorsFile file = small_file();
  const auto message = [](auto call) -> std::string {
    try {
      call();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::bad_data);
      return e.what();
    }
    return "no error";
  };
  EXPECT_NE(message([&] { file.f32("fc.bias", {1}); }).find("fc.bias is missing"), std::string::npos);
  EXPECT_NE(message([&] { file.f32("layer1.0.bn1.weight", {4}); }).find("shape [3] instead of [4]"), std::string::npos);
  EXPECT_NE(message([&] { file.f32("mask", {3}); }).find("type U8 instead of F32"), std::string::npos);
  EXPECT_NE(message([&] { file.i64("conv1.weight"); }).find("type F32 instead of I64"), std::string::npos);
  SafetensorsFile wrong;
  EXPECT_THROW(wrong.put_f32("x", {3}, std::vector<float>{1, 2}), Error);
}

TEST(Safetensors, WidensHalfPrecisionExactly) {
  const auto values = [](const std::string& dtype, const std::vector<std::uint16_t>& bits) {
    SafetensorsFile file;
    const auto bytes = std::as_bytes(std::span(bits));
    file.tensors["x"] = {dtype, {std::ssize(bits)}, {bytes.begin(), bytes.end()}};
    return SafetensorsFile::parse(file.serialize(), "half").f32("x", {std::ssize(bits)});
  };
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(values("F16", {0x3c00, 0xc000, 0x3555, 0x7bff, 0x0400, 0x03ff, 0x0001, 0x7c00, 0xfc00}),
            (std::vector<float>{1, -2, 0x1.554p-2f, 65504, 0x1p-14f, 0x3ffp-24f, 0x1p-24f, kInfinity, -kInfinity}));
  EXPECT_EQ(values("BF16", {0x3f80, 0xc000, 0x7f7f, 0x0001, 0xff80}),
            (std::vector<float>{1, -2, 0x1.fep127f, 0x1p-133f, -kInfinity}));
  for (const std::string type : {"F16", "BF16"}) {
    EXPECT_TRUE(std::isnan(values(type, {0x7fc1})[0]));
    EXPECT_TRUE(std::signbit(values(type, {0x8000})[0]));
  }
  for (int bits = 0; bits < 1 << 16; ++bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) continue;  // infinities and NaN, above
    const float size =
        std::ldexp(static_cast<float>(exponent == 0 ? fraction : 1024 + fraction), std::max(exponent, 1) - 25);
    EXPECT_EQ(values("F16", {static_cast<std::uint16_t>(bits)})[0], bits >> 15 ? -size : size) << bits;
  }
}

TEST(Safetensors, RoundsDoublePrecision) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<double> stored = {1, -0.1, 0x1.000001p0, 0x1.000003p0, 1e-46, 1e300, -1e300};
  SafetensorsFile file;
  const auto bytes = std::as_bytes(std::span(stored));
  file.tensors["x"] = {"F64", {7}, {bytes.begin(), bytes.end()}};
  EXPECT_EQ(SafetensorsFile::parse(file.serialize(), "double").f32("x", {7}),
            (std::vector<float>{1, -0.1f, 1, 0x1.000004p0f, 0, kInfinity, -kInfinity}));
}

TEST(Safetensors, AcceptsAnyOrderOfEntriesAndKeys) {
  const std::string header =
      R"({"b":{"data_offsets":[4,6],"shape":[2],"dtype":"U8"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}, "__metadata__":{}}   )";
  const auto file = SafetensorsFile::parse(bytes_of(header, 6), "x");
  EXPECT_EQ(file.tensors.at("b").data.size(), 2u);
}

TEST(Safetensors, RefusesMalformedHeaders) {
  const auto entry = [](const std::string& body) { return "{\"a\":{" + body + "}}"; };
  struct Case {
    Bytes bytes;
    const char* reason;
  };
  const Case cases[] = {
      {{}, "too few"},
      {Bytes(7), "too few"},
      {bytes_of("", 0), "does not start with {"},
      {bytes_of("[]", 0), "does not start with {"},
      {bytes_of(" {}", 0), "does not start with {"},
      {bytes_of("{}", 0, 3), "header of 3 bytes"},
      {bytes_of("{}", 0, 100'000'001), "header of"},
      {bytes_of("{}", 0, ~0ull), "header of"},
      {bytes_of("{} x", 0), "malformed JSON"},
      {bytes_of("{}{}", 0), "malformed JSON"},
      {bytes_of("{\"a\":", 0), "malformed JSON"},
      {bytes_of("{\"a\xff\":{}}", 0), "malformed JSON"},
      {bytes_of("{\"a\":1}", 0), "a number where"},
      {bytes_of("{\"a\":null}", 0), "null where"},
      {bytes_of("{\"a\":[]}", 0), "a list where"},
      {bytes_of("{\"a\":{}}", 0), "lacks dtype, shape or data_offsets"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1])"), 4), "lacks dtype"},
      {bytes_of(entry(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), 4), "unknown type F33"},
      {bytes_of(entry(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), 4), "negative number"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), 4), "a fraction"},
      {bytes_of(entry(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), 4), "a list where"},
      {bytes_of(entry(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), 4), "a number where"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), 4), "two data_offsets"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), 4), "a number where"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), 4), "hole, overlaps"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,8])"), 4), "passes the end"},
      {bytes_of(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 4), "do not fill F32[2]"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 5), "belong to no tensor"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1],"data_offsets":[1,5])"), 5), "hole"},
      {bytes_of(entry(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), 4), "key dtype twice"},
      {bytes_of(entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1)"), 4), "unknown key x"},
      {bytes_of(entry(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])"), 0), "do not fill"},
      {bytes_of(entry(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0])"), 0), "huge number"},
      {bytes_of(entry(R"("dtype":"U8","shape":[1e3],"data_offsets":[0,0])"), 0), "a fraction"},
      {bytes_of("{\"__metadata__\":{\"a\":1}}", 0), "a number where"},
      {bytes_of("{\"__metadata__\":{\"a\":{}}}", 0), "an object where"},
      {bytes_of("{\"__metadata__\":{\"a\":\"1\",\"a\":\"1\"}}", 0), "key a appears twice"},
      {bytes_of("{\"__metadata__\":{},\"__metadata__\":{}}", 0), "__metadata__ appears twice"},
  };
  for (const Case& c : cases) {
    const std::string message = refusal(c.bytes);
    EXPECT_NE(message.find(c.reason), std::string::npos)
        << message << " <- " << std::string(reinterpret_cast<const char*>(c.bytes.data()), c.bytes.size());
  }
}

TEST(Safetensors, NamesPyTorchsOwnFormat) {
  Bytes bytes(100);
  const unsigned char zip[] = {'P', 'K', 3, 4, 0, 0, 8, 8};  // as torch.save() begins, and as it did before 1.6
  const unsigned char pickle[] = {0x80, 2, 0x8A, 10, 0x6C, 0xFC, 0x9C, 0x46};
  for (const unsigned char* begin : {zip, pickle}) {
    std::memcpy(bytes.data(), begin, sizeof zip);
    EXPECT_NE(refusal(bytes).find("safetensors.torch.save_file"), std::string::npos) << refusal(bytes);
  }
}

TEST(Safetensors, RefusesDuplicatesHolesAndOverlaps) {
  const auto two = [](const std::string& second, const std::string& range, std::size_t data) {
    return refusal(bytes_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},")" + second +
                                R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + range + "}}",
                            data));
  };
  EXPECT_EQ(two("b", "[4,8]", 8), "accepted");
  EXPECT_NE(two("a", "[4,8]", 8).find("a appears twice"), std::string::npos);
  EXPECT_NE(two("b", "[0,4]", 4).find("overlaps"), std::string::npos);
  EXPECT_NE(two("b", "[2,6]", 6).find("overlaps"), std::string::npos);
  EXPECT_NE(two("b", "[5,9]", 9).find("hole"), std::string::npos);
}

TEST(Safetensors, BoundsWhatAHeaderCanAllocate) {
  std::string many = "{\"__metadata__\":{";
  for (int i = 0; i < 70000; ++i) many += "\"" + std::to_string(i) + "\":\"\",";
  many.back() = '}';
  EXPECT_NE(refusal(bytes_of(many + "}", 0)).find("more than 65536 entries"), std::string::npos);
  const std::string huge(2 << 20, 'x');
  EXPECT_NE(refusal(bytes_of("{\"" + huge + "\":{}}", 0)).find("overlong"), std::string::npos);
  EXPECT_NE(refusal(bytes_of("{" + std::string(2 << 20, ' ') + "}", 0)).find("overlong"), std::string::npos);
  EXPECT_NE(refusal(bytes_of("{\"a\":" + std::string(1 << 19, '['), 0)).find("a list where"), std::string::npos);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const Bytes bytes = small_file().serialize();
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_NE(refusal(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n))), "accepted") << n;
  }
  Bytes longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_NE(refusal(longer), "accepted");
}

TEST(Safetensors, SurvivesEveryFlippedBit) {
  const Bytes bytes = small_file().serialize();
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    Bytes flipped = bytes;
    flipped[bit / 8] ^= std::byte(1u << (bit % 8));
    refusal(flipped);
  }
}

TEST(Safetensors, SurvivesRandomBytesAndMutations) {
  Random random(11, Purpose::test);
  const Bytes good = small_file().serialize();
  const std::string tokens = "{}[]\",:0123456789 \\efnu-.";
  for (int round = 0; round < 20000; ++round) {
    Bytes bytes;
    if (round % 2 == 0) {
      bytes = good;
      for (std::uint64_t i = 0; i <= random.below(6); ++i) {
        bytes[8 + random.below(bytes.size() - 8)] = std::byte(tokens[random.below(tokens.size())]);
      }
    } else {
      std::string header = "{";
      for (std::uint64_t i = 0; i < random.below(60); ++i) header += tokens[random.below(tokens.size())];
      bytes = bytes_of(header, random.below(16));
    }
    refusal(bytes);
  }
}

}  // namespace
}  // namespace syncbn
