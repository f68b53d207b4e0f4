// JPEG and PNG.

#include "data/sources/image_codecs.hpp"
#include "fuzz/target.hpp"
#include "unit/pictures.hpp"

namespace syncbn::fuzz {

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const int channels : {1, 3, 4}) {
    const test::Picture picture{.height = 9, .width = 11, .channels = channels};
    for (const test::Bytes& bytes :
         {test::jpeg(picture), test::jpeg(picture, 50, TJFLAG_PROGRESSIVE), test::png(picture)})
      all.emplace_back(bytes.begin(), bytes.end());
  }
  return all;
}

void read(std::string_view input) {
  const Image image = decode_image({reinterpret_cast<const std::uint8_t*>(input.data()), input.size()}, "picture");
  require(std::ssize(image.pixels()) == 3 * image.height() * image.width(), "pixels");
}

}  // namespace syncbn::fuzz
