// IDX and CIFAR files, raw, .gz and .xz: a byte tells which, the file's bytes follow.

#include "unit/data_files.hpp"
#include "data/catalog/image_files.hpp"
#include "fuzz/target.hpp"

namespace syncbn::fuzz {
namespace {

constexpr const char* kSuffixes[] = {"", ".gz", ".xz"};
const CifarFormat kCifar{2, {20, 100}};

}  // namespace

std::vector<std::string> seeds() {
  const test::Bytes images = test::idx_images(3, 5, 4), labels = test::idx_labels(12);
  const test::Bytes cifar(kCifar.file_bytes(), 7);
  std::vector<std::string> all;
  for (const test::Bytes& plain : {images, labels, cifar})
    for (const test::Bytes& packed : {plain, test::gzip(plain), test::xz(plain)})
      all.push_back(static_cast<char>(all.size()) + std::string(packed.begin(), packed.end()));
  return all;
}

void read(std::string_view input) {
  if (input.empty()) return;
  const int which = static_cast<unsigned char>(input.front()) % 9;
  const std::string path = folder() + "/data" + kSuffixes[which % 3];
  file(std::string("data") + kSuffixes[which % 3], input.substr(1));
  if (which / 3 == 0) {
    const IdxImages images = read_idx_images(path, "remedy");
    require(std::ssize(images.pixels.bytes) == images.count * images.height * images.width, "pixels");
  } else if (which / 3 == 1) {
    for (const int label : read_idx_labels(path, 10, "remedy")) require(label < 10, "label");
  } else {
    for (const int label : read_cifar(path, kCifar, "remedy").labels) require(label < 100, "label");
  }
}

}  // namespace syncbn::fuzz
