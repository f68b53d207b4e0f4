#include "data/catalog/unpack.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <set>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace fs = std::filesystem;

namespace {

class Reader {
 public:
  explicit Reader(const fs::path& path) : path_(path), archive_(archive_read_new()) {
    constexpr std::size_t kBlock = 64 * 1024;
    if (!archive_) throw std::bad_alloc();
    archive_read_support_filter_gzip(archive_.get());
    archive_read_support_format_tar(archive_.get());
    check(archive_read_open_filename(archive_.get(), path.c_str(), kBlock));
  }

  /// Returns the next entry, null at the end.
  archive_entry* next() {
    archive_entry* entry = nullptr;
    const int status = archive_read_next_header(archive_.get(), &entry);
    if (status == ARCHIVE_EOF) return nullptr;
    check(status);
    return entry;
  }

  /// Writes the current entry, which must hold `bytes` bytes.
  void save(const fs::path& target, std::uint64_t bytes) {
    std::ofstream out(target, std::ios::binary | std::ios::trunc);
    std::vector<char> buffer(1u << 20);
    std::uint64_t done = 0;
    while (const auto n = archive_read_data(archive_.get(), buffer.data(), buffer.size())) {
      if (n < 0) check(static_cast<int>(n));
      done += static_cast<std::uint64_t>(n);
      if (done > bytes) break;
      out.write(buffer.data(), static_cast<std::streamsize>(n));
    }
    if (done != bytes) fail(fmt::format("member {} has the wrong size", target.stem().string()));
    out.close();
    if (!out)
      throw Error(fmt::format("{} cannot be written; check the folder's permissions and space", target.string()));
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(fmt::format("{}: {}; fetch it again", path_.string(), what), ExitCode::bad_data);
  }

 private:
  struct Free {
    void operator()(archive* a) const { archive_read_free(a); }
  };
  void check(int status) const {
    if (status == ARCHIVE_OK || status == ARCHIVE_WARN) return;
    const char* reason = archive_error_string(archive_.get());
    fail(fmt::format("is not a well-formed .tar.gz ({})", reason ? reason : "unknown reason"));
  }

  fs::path path_;
  std::unique_ptr<archive, Free> archive_;
};

}  // namespace

void unpack(const fs::path& archive, const std::vector<ArchiveMember>& members, const fs::path& folder) {
  Reader reader(archive);
  std::set<std::string> missing;
  for (const auto& member : members) missing.insert(member.name);
  while (archive_entry* entry = reader.next()) {
    const char* path = archive_entry_pathname(entry);
    const std::string name = path ? fs::path(path).filename().string() : "";
    const auto member = std::find_if(members.begin(), members.end(), [&](const auto& m) { return m.name == name; });
    if (member == members.end() || !missing.contains(name)) continue;
    if (archive_entry_filetype(entry) != AE_IFREG) reader.fail(fmt::format("member {} is no plain file", name));
    const fs::path part = folder / (name + ".part");
    try {
      reader.save(part, member->bytes);
      fs::rename(part, folder / name);
    } catch (...) {
      std::error_code ignored;
      fs::remove(part, ignored);
      throw;
    }
    missing.erase(name);
  }
  if (!missing.empty()) reader.fail(fmt::format("has no member {}", *missing.begin()));
}

}  // namespace syncbn
