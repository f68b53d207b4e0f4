#pragma once

#include <fmt/format.h>
#include <png.h>
#include <turbojpeg.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "unit/data_files.hpp"

namespace syncbn::test {

/// A picture [height, width, channels] that differs from place to place without sharp edges, which JPEG would blur.
struct Picture {
  int height = 24, width = 32, channels = 3;
  int variant = 0;

  std::uint8_t value(int y, int x, int c) const {
    return static_cast<std::uint8_t>(20 + 3 * y + 2 * x + 25 * c + 15 * (variant % 4));
  }
  Bytes bytes() const {
    Bytes all;
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x)
        for (int c = 0; c < channels; ++c) all.push_back(value(y, x, c));
    return all;
  }
};

/// channels: 1 grey, 3 RGB, 4 CMYK.
inline Bytes jpeg(const Picture& p, int quality = 98, int flags = 0) {
  const tjhandle codec = tjInitCompress();
  unsigned char* out = nullptr;
  unsigned long size = 0;  // NOLINT(google-runtime-int): the library's type
  const Bytes in = p.bytes();
  const int format = p.channels == 1 ? TJPF_GRAY : p.channels == 3 ? TJPF_RGB : TJPF_CMYK;
  const int failed = tjCompress2(codec, in.data(), p.width, 0, p.height, format, &out, &size,
                                 p.channels == 1 ? TJSAMP_GRAY : TJSAMP_444, quality, flags);
  Bytes bytes(out, out + size);
  tjFree(out);
  tjDestroy(codec);
  if (failed) throw std::runtime_error("cannot write a JPEG picture");
  return bytes;
}

/// channels: 1 grey, 3 RGB, 4 with transparency.
inline Bytes png(const Picture& p) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(p.height), image.width = static_cast<png_uint_32>(p.width);
  image.format = p.channels == 1 ? PNG_FORMAT_GRAY : p.channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_RGBA;
  const Bytes in = p.bytes();
  png_alloc_size_t size = 0;
  png_image_write_get_memory_size(image, size, 0, in.data(), 0, nullptr);
  Bytes bytes(size);
  if (!png_image_write_to_memory(&image, bytes.data(), &size, 0, in.data(), 0, nullptr))
    throw std::runtime_error("cannot write a PNG picture");
  bytes.resize(size);
  return bytes;
}

/// RGB of 16 bits, [height, width, 3], with nothing said about gamma.
inline Bytes png16(const Picture& p, const std::vector<std::uint16_t>& values) {
  Bytes bytes;
  png_structp writer = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(writer);
  png_set_write_fn(
      writer, &bytes,
      [](png_structp w, png_bytep data, std::size_t size) {
        auto& out = *static_cast<Bytes*>(png_get_io_ptr(w));
        out.insert(out.end(), data, data + size);
      },
      nullptr);
  png_set_IHDR(writer, info, static_cast<png_uint_32>(p.width), static_cast<png_uint_32>(p.height), 16,
               PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(writer, info);
  png_set_swap(writer);  // from this machine's order, low byte first
  for (int y = 0; y < p.height; ++y)
    png_write_row(writer, reinterpret_cast<png_const_bytep>(values.data() + 3 * y * p.width));
  png_write_end(writer, info);
  png_destroy_write_struct(&writer, &info);
  return bytes;
}

/// train and val with these classes, each with pictures of different sizes and formats.
inline void write_pictures(const TempFolder& folder, const std::vector<std::string>& classes, int train, int val) {
  for (std::size_t c = 0; c < classes.size(); ++c)
    for (int i = 0; i < train + val; ++i) {
      const Picture p{20 + 3 * (i % 4), 24 + 5 * (i % 3), 3, static_cast<int>(c)};
      const std::string name =
          fmt::format("{}/{}/{:03}.{}", i < train ? "train" : "val", classes[c], i, i % 2 ? "jpg" : "png");
      folder.write(name, i % 2 ? jpeg(p) : png(p));
    }
}

}  // namespace syncbn::test
