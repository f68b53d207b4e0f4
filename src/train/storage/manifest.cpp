#include "train/storage/manifest.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <nlohmann/json.hpp>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr std::string_view kOpening = "{\n  \"sha256\": \"";
constexpr std::size_t kHashDigits = 64;

// The text behind the hash's digits, which is what the hash covers.
std::string body_of(const Manifest& manifest) {
  Json files = Json::object();
  for (const auto& [name, file] : manifest.files) files[name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  Json scalars = Json::object();
  for (const auto& [name, value] : manifest.scalars) scalars[name] = value;
  Json json;
  json["format"] = "syncbn-checkpoint";
  json["version"] = kVersion;
  json["step"] = manifest.step;
  json["best"] = manifest.best;
  json["files"] = std::move(files);
  json["scalars"] = std::move(scalars);
  return "\"," + json.dump(2).substr(1) + "\n";
}

Manifest manifest_of(const Json& json) {
  Manifest manifest;
  manifest.step = json.at("step").get_ref<const Json::number_integer_t&>();
  manifest.best = json.at("best").get<bool>();
  for (const auto& [name, file] : json.at("files").items()) {
    manifest.files[name] = {file.at("bytes").get_ref<const Json::number_unsigned_t&>(),
                            file.at("sha256").get<std::string>()};
  }
  for (const auto& [name, value] : json.at("scalars").items()) manifest.scalars[name] = value.get<std::string>();
  return manifest;
}

}  // namespace

std::string sha256(std::span<const std::byte> bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1) {
    throw Error("SHA-256 failed in OpenSSL's crypto library; check its installation (openssl sha256)");
  }
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

std::string Manifest::text() const {
  const std::string body = body_of(*this);
  return std::string(kOpening) + sha256(std::as_bytes(std::span(body))) + body;
}

Manifest Manifest::parse(const std::string& text, const std::string& origin) {
  const auto refuse = [&origin](const std::string& why) -> void {
    throw Error(fmt::format("{}: {}", origin, why), ExitCode::bad_data);
  };
  const std::size_t start = kOpening.size() + kHashDigits;
  if (text.size() < start || !text.starts_with(kOpening)) refuse("not a checkpoint manifest, or a truncated one");
  const std::string body = text.substr(start);
  if (text.substr(kOpening.size(), kHashDigits) != sha256(std::as_bytes(std::span(body)))) {
    refuse("the content does not match its own hash: it was altered or truncated");
  }
  try {
    const Json json = Json::parse(text);
    if (json.at("format") != "syncbn-checkpoint" || json.at("version") != kVersion) {
      refuse("written by another version of the program");
    }
    return manifest_of(json);
  } catch (const Json::exception& e) {
    refuse(fmt::format("malformed: {}", std::string(e.what()).substr(0, 120)));
  }
  return {};
}

}  // namespace syncbn
