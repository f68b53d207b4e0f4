// The .tar.gz of which members are taken; packed here, because changed checksums of gzip hide what lies behind them.

#include <archive.h>
#include <archive_entry.h>

#include "data/catalog/unpack.hpp"
#include "fuzz/target.hpp"
#include "unit/data_files.hpp"

namespace syncbn::fuzz {

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const auto format :
       {archive_write_set_format_ustar, archive_write_set_format_pax, archive_write_set_format_gnutar}) {
    std::string bytes(10240, '\0');
    std::size_t used = 0;
    archive* const tar = archive_write_new();
    format(tar);
    archive_write_open_memory(tar, bytes.data(), bytes.size(), &used);
    archive_entry* const entry = archive_entry_new();
    for (const char* name : {"set/readme.html", "set/one.bin"}) {
      archive_entry_set_pathname(entry, name);
      archive_entry_set_size(entry, 100);
      archive_entry_set_filetype(entry, AE_IFREG);
      archive_write_header(tar, entry);
      archive_write_data(tar, std::string(100, 'a').data(), 100);
    }
    archive_entry_free(entry);
    archive_write_free(tar);
    all.push_back(bytes.substr(0, used));
  }
  return all;
}

void read(std::string_view input) {
  const test::Bytes packed = test::gzip({input.begin(), input.end()});
  const std::string archive = file("a.tar.gz", {reinterpret_cast<const char*>(packed.data()), packed.size()});
  unpack(archive, {{"one.bin", 100}}, folder());
}

}  // namespace syncbn::fuzz
