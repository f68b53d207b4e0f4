#include "data/sources/image_codecs.hpp"

#include <fmt/format.h>
#include <png.h>
#include <turbojpeg.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "syncbn/core/error.hpp"

namespace syncbn {
namespace {

/// Pictures with more pixels are taken for decompression bombs: photographs have up to a hundred million.
constexpr std::int64_t kMostPixels = std::int64_t{1} << 28;
/// No PNG packs better than 8 pixels in a byte, of which deflate makes one of 1032, and no JPEG nearly as well.
constexpr std::int64_t kMostPixelsOfByte = 8 * 1032, kAlwaysTaken = std::int64_t{1} << 20;

[[noreturn]] void refuse(const std::filesystem::path& file, const std::string& what) {
  throw Error(fmt::format("{}: {}; mend or remove it", file.string(), what), ExitCode::bad_data);
}

void check_size(const std::filesystem::path& file, std::size_t bytes, std::int64_t height, std::int64_t width) {
  if (height < 1 || width < 1) refuse(file, "damaged or cut short: it ends before the size of its picture");
  if (height > kMostPixels / width)
    refuse(file, fmt::format("{} x {} pixels; at most {} can be read", width, height, kMostPixels));
  if (height * width - kAlwaysTaken > kMostPixelsOfByte * static_cast<std::int64_t>(bytes))
    refuse(file, fmt::format("damaged or cut short: {} bytes for {} x {} pixels", bytes, width, height));
}

/// Converts [height, width, from_channels] to [3, height, width].
std::vector<std::uint8_t> planes(const std::vector<std::uint8_t>& pixels, std::size_t area, std::size_t from_channels) {
  std::vector<std::uint8_t> out(3 * area);
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t i = 0; i < area; ++i) out[c * area + i] = pixels[i * from_channels + c];
  }
  return out;
}

/// Converts CMYK to RGB. CMYK pictures are stored inverted, as Adobe's programs write them.
void cmyk_to_rgb(std::vector<std::uint8_t>& pixels) {
  for (std::size_t i = 0; i < pixels.size(); i += 4) {
    for (std::size_t c = 0; c < 3; ++c) pixels[i + c] = static_cast<std::uint8_t>(pixels[i + c] * pixels[i + 3] / 255);
  }
}

/// Whether a part of a picture with a warning is missing. Only the first of several warnings is reported.
bool ends_early(std::span<const std::uint8_t> jpeg, std::string_view warning) {
  constexpr std::array<std::uint8_t, 2> kScan = {0xFF, 0xDA}, kEnd = {0xFF, 0xD9};
  const auto last = [jpeg](const auto& marker) {
    return std::find_end(jpeg.begin(), jpeg.end(), marker.begin(), marker.end());
  };
  return warning.find("remature end") != std::string_view::npos || last(kEnd) == jpeg.end() || last(kEnd) < last(kScan);
}

Image decode_jpeg(std::span<const std::uint8_t> bytes, const std::filesystem::path& file) {
  const std::unique_ptr<void, int (*)(void*)> codec(tjInitDecompress(), tjDestroy);
  if (!codec) refuse(file, "libjpeg-turbo does not start");
  int width = 0, height = 0, subsampling = 0, colorspace = 0;
  // Stray bytes between segments are harmless and common, and only cause a warning.
  const auto failed = [&](int result) { return result != 0 && tjGetErrorCode(codec.get()) != TJERR_WARNING; };
  if (failed(tjDecompressHeader3(codec.get(), bytes.data(), bytes.size(), &width, &height, &subsampling, &colorspace)))
    refuse(file, fmt::format("not a JPEG picture ({})", tjGetErrorStr2(codec.get())));
  check_size(file, bytes.size(), height, width);
  const bool cmyk = colorspace == TJCS_CMYK || colorspace == TJCS_YCCK;
  const std::size_t area = static_cast<std::size_t>(width) * static_cast<std::size_t>(height), channels = cmyk ? 4 : 3;
  std::vector<std::uint8_t> pixels(area * channels);
  const int result = tjDecompress2(codec.get(), bytes.data(), bytes.size(), pixels.data(), width, 0, height,
                                   cmyk ? TJPF_CMYK : TJPF_RGB, TJFLAG_LIMITSCANS);
  const std::string_view why = result == 0 ? "" : tjGetErrorStr2(codec.get());
  if (failed(result) || (result != 0 && ends_early(bytes, why)))
    refuse(file, fmt::format("damaged JPEG picture ({})", why));
  if (cmyk) cmyk_to_rgb(pixels);
  return {height, width, planes(pixels, area, channels)};
}

Image decode_png(std::span<const std::uint8_t> bytes, const std::filesystem::path& file) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  const std::unique_ptr<png_image, void (*)(png_image*)> release(&png, png_image_free);
  if (!png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()))
    refuse(file, fmt::format("not a PNG picture ({})", png.message));
  check_size(file, bytes.size(), png.height, png.width);
  png.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;  // otherwise 16-bit pictures without gamma are taken for linear light
  png.format = PNG_FORMAT_RGBA;            // without alpha, libpng would blend transparent pixels with a background
  std::vector<std::uint8_t> pixels(PNG_IMAGE_SIZE(png));
  const std::int64_t height = png.height, width = png.width;
  if (!png_image_finish_read(&png, nullptr, pixels.data(), 0, nullptr))
    refuse(file, fmt::format("damaged PNG picture ({})", png.message));
  return {height, width, planes(pixels, static_cast<std::size_t>(height * width), 4)};
}

}  // namespace

// The format is determined by content, since file names may be wrong.
Image decode_image(std::span<const std::uint8_t> bytes, const std::filesystem::path& file) {
  constexpr std::array<std::uint8_t, 3> kJpeg = {0xFF, 0xD8, 0xFF};
  constexpr std::array<std::uint8_t, 4> kPng = {0x89, 'P', 'N', 'G'};
  const auto starts_with = [&](const auto& magic) {
    return bytes.size() > magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
  };
  if (starts_with(kJpeg)) return decode_jpeg(bytes, file);
  if (starts_with(kPng)) return decode_png(bytes, file);
  refuse(file, bytes.empty() ? "an empty file" : "neither a JPEG nor a PNG picture");
}

}  // namespace syncbn
