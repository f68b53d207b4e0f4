#include "data/catalog/download.hpp"

#include <curl/curl.h>
#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <filesystem>
#include <memory>

#include "data/catalog/catalog.hpp"
#include "data/catalog/folders.hpp"
#include "data/catalog/image_files.hpp"
#include "data/catalog/unpack.hpp"
#include "data/files/byte_source.hpp"
#include "data/files/fetch.hpp"
#include "syncbn/core/error.hpp"

namespace syncbn {
namespace fs = std::filesystem;

namespace {

std::string md5_of(ByteSource& source) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::vector<std::uint8_t> buffer(1u << 20);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int digest_bytes = 0;
  bool ok = context && EVP_DigestInit_ex(context.get(), EVP_md5(), nullptr);
  while (const std::size_t n = ok ? source.read(buffer) : 0) ok = EVP_DigestUpdate(context.get(), buffer.data(), n);
  ok = ok && EVP_DigestFinal_ex(context.get(), digest.data(), &digest_bytes);
  if (!ok) throw Error("OpenSSL cannot compute MD5, which the data sets are published with; is it in FIPS mode?");
  std::string hex;
  for (unsigned int i = 0; i < digest_bytes; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

void move_into_place(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw Error(fmt::format("{} cannot be renamed to {}: {}", from.string(), to.string(), error.message()));
}

std::string without_gz(const std::string& name) {
  return name.ends_with(".gz") ? name.substr(0, name.size() - 3) : name;
}

/// The result of `check` and, unless it is ok, the reason.
struct Verdict {
  FileState state;
  std::string reason;
};

Verdict missing(const std::string& folder, const std::string& name) {
  return {FileState::missing, fmt::format("{} has no {}[.gz|.xz]", folder, name)};
}

Verdict check_member(const DatasetFacts& facts, const std::string& folder, const ArchiveMember& member) {
  const auto path = find_file(folder, member.name);
  if (!path) return missing(folder, member.name);
  const Split split = member.name == facts.test_files.front() ? Split::test : Split::train;
  read_cifar(*path, cifar_format(facts, split), remedy_for(facts));
  return {FileState::ok, ""};
}

Verdict check_file(const DatasetFacts& facts, const std::string& folder, const RemoteFile& file) {
  const std::string name = without_gz(file.name);
  const auto path = find_file(folder, name);
  if (!path) return missing(folder, name);
  const std::string remedy = remedy_for(facts);
  if (path->filename() == file.name && md5_of(*ByteSource::open_packed(*path, remedy)) == file.md5)
    return {FileState::ok, ""};
  if (!file.content_md5.empty() && md5_of(*ByteSource::open(*path, remedy)) == file.content_md5)
    return {FileState::ok, ""};
  return {FileState::altered,
          fmt::format("{} differs from the official file (MD5); delete it and {}", path->string(), remedy)};
}

Verdict check_all(const DatasetFacts& facts, const std::string& folder, const RemoteFile& file) {
  const auto members = archive_members(file.name);
  if (members.empty()) return check_file(facts, folder, file);
  for (const auto& member : members)
    if (auto verdict = check_member(facts, folder, member); verdict.state != FileState::ok) return verdict;
  return {FileState::ok, "unpacked: by size and labels, there are no official checksums of its files"};
}

}  // namespace

void download(const RemoteFile& file, const std::string& folder,
              const std::function<void(std::uint64_t done, std::uint64_t total)>& progress) {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);  // not thread-safe, so called once
  if (started != CURLE_OK) throw Error("libcurl cannot be started", ExitCode::unavailable);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw Error(fmt::format("{} cannot be created: {}; name another folder", folder, error.message()));

  const fs::path target = fs::path(folder) / file.name;
  const fs::path part = target.string() + ".part";
  const auto locked = fetch(file.url, part, file.bytes, progress);
  const std::string found = md5_of(*ByteSource::open_packed(part, "fetch it again"));
  if (found != file.md5) {
    fs::remove(part, error);
    throw Error(fmt::format("{} is not the official file: MD5 {}, expected {}; deleted; try again later, or a mirror: "
                            "SYNCBN_DATA_MIRROR=URL",
                            file.url, found, file.md5),
                ExitCode::bad_data);
  }
  move_into_place(part, target);
  if (const auto members = archive_members(file.name); !members.empty()) {
    unpack(target, members, folder);
    fs::remove(target, error);
  }
}

FileState check(const RemoteDataset& dataset, const RemoteFile& file, const std::string& folder, std::string* reason) {
  Verdict verdict;
  try {
    verdict = check_all(facts_of(dataset.kind), folder, file);
  } catch (const Error& error) {
    if (error.code() != ExitCode::bad_data) throw;
    verdict = {FileState::altered, error.what()};
  }
  if (reason) *reason = verdict.reason;
  return verdict.state;
}

}  // namespace syncbn
