// Pictures: their formats, scaling and cropping, and folders of them as a data set.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "data/loading/image_pipeline.hpp"
#include "data/loading/image_scale.hpp"
#include "data/loading/loader.hpp"
#include "data/sources/image_codecs.hpp"
#include "unit/pictures.hpp"

namespace syncbn::test {
namespace {

using ::testing::HasSubstr;

constexpr int kRgb[] = {0, 1, 2};

/// Largest distance of a decoded picture from the original, channel c of which is channels[c] there.
int distance(const Image& image, const Picture& p, std::span<const int> channels = kRgb) {
  EXPECT_EQ(image.height(), p.height);
  EXPECT_EQ(image.width(), p.width);
  EXPECT_EQ(image.pixels().size(), static_cast<std::size_t>(3 * p.height * p.width));
  int largest = 0;
  for (int c = 0; c < 3; ++c)
    for (int y = 0; y < p.height; ++y)
      for (int x = 0; x < p.width; ++x) {
        const int got = image.pixels()[(c * p.height + y) * p.width + x];
        largest = std::max(largest, std::abs(got - p.value(y, x, channels[c])));
      }
  return largest;
}

TEST(Pictures, PngIsExact) {
  EXPECT_EQ(distance(decode_image(png({}), "a.png"), {}), 0);
  EXPECT_EQ(distance(decode_image(png({.channels = 1}), "a.png"), {}, std::array{0, 0, 0}), 0);
  EXPECT_EQ(distance(decode_image(png({.channels = 4}), "a.png"), {}), 0);  // what is transparent keeps its colour
  EXPECT_EQ(distance(decode_image(png({.height = 1, .width = 1}), "a.png"), {.height = 1, .width = 1}), 0);
}

/// 257 * v is what 8 bits of v are in 16.
TEST(Pictures, SixteenBitsBecomeEight) {
  const Picture p;
  std::vector<std::uint16_t> values;
  for (const std::uint8_t v : p.bytes()) values.push_back(static_cast<std::uint16_t>(257 * v));
  const Image image = decode_image(png16(p, values), "a.png");
  EXPECT_EQ(distance(image, p), 0);
}

TEST(Pictures, JpegIsClose) {
  EXPECT_LE(distance(decode_image(jpeg({}), "a.jpg"), {}), 4);
  EXPECT_LE(distance(decode_image(jpeg({.height = 7, .width = 9}), "a.jpg"), {.height = 7, .width = 9}), 4);
  EXPECT_LE(distance(decode_image(jpeg({.channels = 1}), "a.jpg"), {}, std::array{0, 0, 0}), 4);
}

TEST(Pictures, CmykBecomesRgb) {
  const Picture p{.channels = 4};
  const Image image = decode_image(jpeg(p), "a.jpg");
  for (int c = 0; c < 3; ++c)
    for (int y = 0; y < p.height; ++y)
      for (int x = 0; x < p.width; ++x)
        EXPECT_NEAR(image.pixels()[(c * p.height + y) * p.width + x], p.value(y, x, c) * p.value(y, x, 3) / 255.0, 5);
}

TEST(Pictures, TheContentSaysWhichFormatItIs) {
  EXPECT_EQ(distance(decode_image(png({}), "wrong.JPEG"), {}), 0);
}

TEST(Pictures, DamageIsNamed) {
  const auto refused = [](Bytes bytes) {
    return message_of(ExitCode::bad_data, [&] { decode_image(bytes, "cat/7.jpg"); });
  };
  const auto start_of = [](const Bytes& whole) { return Bytes(whole.begin(), whole.begin() + whole.size() / 2); };
  Bytes early = jpeg({.height = 300, .width = 400});
  early.resize(early.size() - 100);
  EXPECT_THAT(refused(early), HasSubstr("cat/7.jpg: damaged JPEG picture (Premature end"));
  Bytes cut = jpeg({.height = 300, .width = 400});
  cut.resize(100);
  EXPECT_THAT(refused(cut), HasSubstr("cat/7.jpg: damaged or cut short"));
  EXPECT_THAT(refused(start_of(png({}))), HasSubstr("cat/7.jpg: damaged PNG picture"));
  EXPECT_THAT(refused({}), HasSubstr("an empty file"));
  EXPECT_THAT(refused({'h', 'e', 'l', 'l', 'o'}), HasSubstr("neither a JPEG nor a PNG"));
  EXPECT_THAT(refused({0xFF, 0xD8, 0xFF, 0, 0, 0, 0}), HasSubstr("cat/7.jpg: "));
  EXPECT_THAT(refused({0x89, 'P', 'N', 'G', 0, 0, 0, 0}), HasSubstr("not a PNG picture"));
  Bytes bomb = png({});
  bomb[16] = bomb[20] = 0x7F;  // it claims sides of two thousand million pixels
  EXPECT_THAT(refused(bomb), HasSubstr("cat/7.jpg: "));
  Bytes large = jpeg({});
  const Bytes frame = {0xFF, 0xC0, 0, 17, 8, 0, 24, 0, 32};  // the start of the frame says the size
  const auto at = std::search(large.begin(), large.end(), frame.begin(), frame.end());
  ASSERT_NE(at, large.end());
  std::fill(at + 5, at + 9, 0x7F);
  EXPECT_THAT(refused(large), HasSubstr("32639 x 32639 pixels; at most 268435456 can be read"));
  std::copy_n(Bytes{0x20, 0, 0x20, 0}.begin(), 4, at + 5);
  EXPECT_THAT(refused(large), HasSubstr(fmt::format("{} bytes for 8192 x 8192 pixels", large.size())));
}

// Each scan of a progressive picture is a pass over all of its pixels.
TEST(Pictures, EndlessScansAreRefused) {
  const Picture p;
  Bytes scans = jpeg(p, 98, TJFLAG_PROGRESSIVE);
  EXPECT_LE(distance(decode_image(scans, "a.jpg"), p), 8);
  const Bytes start = {0xFF, 0xDA};
  const auto last = std::find_end(scans.begin(), scans.end(), start.begin(), start.end());
  const Bytes again(last, scans.end() - 2);
  for (int i = 0; i < 600; ++i) scans.insert(scans.end() - 2, again.begin(), again.end());
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { decode_image(scans, "a.jpg"); }), HasSubstr("more than 500 scans"));
}

// What cameras and editors leave between segments takes nothing from a picture; what is missing does, however it ends.
TEST(Pictures, StrayBytesAreNoDamage) {
  const Picture p{.height = 300, .width = 400};
  const auto refused = [](const Bytes& bytes) {
    return message_of(ExitCode::bad_data, [&] { decode_image(bytes, "cat/7.jpg"); });
  };
  Bytes stray = jpeg(p);
  const Bytes tables = {0xFF, 0xDB};
  stray.insert(std::search(stray.begin(), stray.end(), tables.begin(), tables.end()), {0, 0});
  const Image odd = decode_image(stray, "a.jpg"), plain = decode_image(jpeg(p), "a.jpg");
  EXPECT_TRUE(std::ranges::equal(odd.pixels(), plain.pixels()));
  const auto half = [](const Bytes& whole) {
    return Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(whole.size() / 2));
  };
  EXPECT_THAT(refused(half(stray)), HasSubstr("cat/7.jpg: damaged"));
  Bytes closed = half(jpeg(p));
  closed.insert(closed.end(), {0xFF, 0xD9});  // the mark of a picture's end
  EXPECT_THAT(refused(closed), HasSubstr("cat/7.jpg: damaged JPEG picture"));
}

Image planes_of(const Picture& p) {
  return decode_image(png(p), "a.png");
}

/// The definition, in f64: a triangle as wide as the reduction asks for, cut off at the box's edges.
double scaled_pixel(const Picture& p, const Box& box, int height, int width, int c, int y, int x) {
  const auto weights = [](std::int64_t size, int count, int at) {
    const double step = static_cast<double>(size) / count, center = (at + 0.5) * step, reach = std::max(1.0, step);
    std::vector<double> w(static_cast<std::size_t>(size));
    double sum = 0;
    for (std::int64_t i = 0; i < size; ++i) {
      sum += w[i] = std::max(0.0, 1 - std::abs(static_cast<double>(i) + 0.5 - center) / reach);
    }
    for (double& weight : w) weight /= sum;
    return w;
  };
  const auto rows = weights(box.height, height, y), columns = weights(box.width, width, x);
  double sum = 0;
  for (int i = 0; i < box.height; ++i)
    for (int j = 0; j < box.width; ++j)
      sum += rows[i] * columns[j] * p.value(static_cast<int>(box.top) + i, static_cast<int>(box.left) + j, c);
  return sum;
}

TEST(Scale, AgreesWithTheDefinition) {
  const Picture p{.height = 30, .width = 41};
  const Image image = planes_of(p);
  for (const Box& box : {Box{0, 0, 30, 41}, Box{3, 10, 20, 17}, Box{29, 0, 1, 2}, Box{0, 40, 30, 1}})
    for (const auto& [height, width] : {std::pair{12, 12}, {8, 40}, {64, 50}, {1, 1}}) {
      std::vector<std::uint8_t> out(static_cast<std::size_t>(3 * height * width));
      scale(image, box, height, width, out);
      for (int c = 0; c < 3; ++c)
        for (int y = 0; y < height; ++y)
          for (int x = 0; x < width; ++x)
            ASSERT_NEAR(out[(c * height + y) * width + x], scaled_pixel(p, box, height, width, c, y, x), 0.51)
                << height << "x" << width << " at " << c << " " << y << " " << x;
    }
}

TEST(Scale, TheWholeInItsOwnSizeStaysAsItIs) {
  const Image image = planes_of({});
  std::vector<std::uint8_t> out(image.pixels().size());
  scale(image, {0, 0, 24, 32}, 24, 32, out);
  EXPECT_TRUE(std::ranges::equal(out, image.pixels()));
}

TEST(Boxes, TheMiddle) {
  const Bytes pixels(3 * 375 * 500);
  const Box box = center_box(Image(375, 500, pixels), 224, 224, 224.0 / 256);
  EXPECT_EQ(box.height, 328);  // 375 * 224 / 256
  EXPECT_EQ(box.width, 328);
  EXPECT_EQ(box.top, 23);
  EXPECT_EQ(box.left, 86);
  const Box wide = center_box(Image(375, 500, pixels), 10, 40, 1);
  EXPECT_EQ(wide.width, 500);
  EXPECT_EQ(wide.height, 125);
}

TEST(Boxes, RandomOnesCoverTheRanges) {
  const Bytes pixels(3 * 300 * 400);
  const Image image(300, 400, pixels);
  double least = 1, most = 0, narrow = 9, broad = 0;
  bool top = false, left = false, bottom = false, right = false;  // of the image, reached by a smaller box
  for (std::uint64_t i = 0; i < 2000; ++i) {
    Random random(1, Purpose::augment, 0, i);
    const Box b = random_box(image, random);
    EXPECT_GE(b.top, 0);
    EXPECT_GE(b.left, 0);
    EXPECT_LE(b.top + b.height, 300);
    EXPECT_LE(b.left + b.width, 400);
    top |= b.height < 300 && b.top == 0, bottom |= b.height < 300 && b.top + b.height == 300;
    left |= b.width < 400 && b.left == 0, right |= b.width < 400 && b.left + b.width == 400;
    const double height = static_cast<double>(b.height), width = static_cast<double>(b.width);
    const double area = height * width / (300 * 400), proportion = width / height;
    least = std::min(least, area), most = std::max(most, area);
    narrow = std::min(narrow, proportion), broad = std::max(broad, proportion);
  }
  EXPECT_GE(least, 0.079);
  EXPECT_LT(least, 0.09);
  EXPECT_GT(most, 0.95);
  EXPECT_GE(narrow, 0.74);
  EXPECT_LT(narrow, 0.76);
  EXPECT_LE(broad, 1.35);
  EXPECT_GT(broad, 1.32);
  EXPECT_TRUE(top && left && bottom && right);
}

TEST(Boxes, OfNarrowImagesTheMiddle) {
  const Bytes pixels(3 * 4 * 1000);
  Random random(1, Purpose::augment);
  const Box b = random_box(Image(4, 1000, pixels), random);
  EXPECT_EQ(b.height, 4);
  EXPECT_EQ(b.width, 5);
  EXPECT_EQ(b.left, 497);
}

TEST(ImageFolder, TakesTheClassesInTurn) {
  const TempFolder folder;
  write_pictures(folder, {"ant", "bee", "cow"}, 3, 2);
  folder.write("train/bee/deep/er/900.png", png({}));
  folder.write("train/bee/.hidden.png", png({}));
  folder.write("train/bee/.thumbnails/deep/900.png", png({}));
  folder.write("train/bee/notes.txt", {'x'});
  folder.write("train/README", {'x'});
  const Dataset train = open_dataset("image-folder", folder.str(), Split::train);
  const Dataset test = open_dataset("image-folder", folder.str(), Split::test);
  EXPECT_EQ(train.classes(), 3);
  EXPECT_EQ(train.channels(), 3);
  EXPECT_EQ(train.height(), 0);
  std::vector<int> labels;
  for (std::int64_t i = 0; i < train.size(); ++i) labels.push_back(train.label(i));
  EXPECT_EQ(labels, (std::vector<int>{0, 1, 2, 0, 1, 2, 0, 1, 2, 1}));
  EXPECT_EQ(test.size(), 6);
  EXPECT_EQ(distance(train.image(2), {.height = 20, .width = 24, .variant = 2}), 0);
  EXPECT_EQ(distance(train.image(9), {}), 0);
  EXPECT_EQ(train.first(4).size(), 4);
  EXPECT_NE(train.fingerprint(), test.fingerprint());
  EXPECT_NE(train.fingerprint(), train.first(4).fingerprint());
  EXPECT_EQ(train.fingerprint(), open_dataset("image-folder", folder.str(), Split::train).fingerprint());
}

TEST(ImageFolder, SaysWhatIsWrong) {
  const TempFolder folder;
  const auto refused = [&](Split split) {
    return message_of(ExitCode::bad_data, [&] { open_dataset("image-folder", folder.str(), split); });
  };
  EXPECT_THAT(message_of(ExitCode::bad_data, [] { open_dataset("image-folder", "/nowhere", Split::train); }),
              HasSubstr("/nowhere: no such folder"));
  EXPECT_THAT(refused(Split::train), HasSubstr("has no folder train; expected train/CLASS/*.jpg"));
  EXPECT_THAT(refused(Split::test), HasSubstr("neither a folder val nor test"));
  std::filesystem::create_directories(folder.path() / "train");
  EXPECT_THAT(refused(Split::train), HasSubstr("no folder of a class"));
  folder.write("train/ant/1.png", png({}));
  std::filesystem::create_directories(folder.path() / "train/bee");
  EXPECT_THAT(refused(Split::train), HasSubstr("bee: no .jpg, .jpeg or .png in it"));
  folder.write("train/bee/1.png", png({}));
  folder.write("test/wasp/1.png", png({}));
  EXPECT_THAT(refused(Split::test), HasSubstr("test/wasp: train has no class of this name"));
  const Dataset train = open_dataset("image-folder", folder.str(), Split::train);
  std::filesystem::remove(folder.path() / "train/bee/1.png");
  EXPECT_THAT(message_of(ExitCode::bad_data, [&] { train.image(1); }), HasSubstr("train/bee/1.png"));
}

TEST(ImageFolder, NumbersClassesAsTrainingDoes) {
  const TempFolder folder;
  write_pictures(folder, {"ant", "bee", "cow"}, 1, 1);
  std::filesystem::remove_all(folder.path() / "val/bee");
  const Dataset test = open_dataset("image-folder", folder.str(), Split::test);
  ASSERT_EQ(test.size(), 2);
  EXPECT_EQ(test.classes(), 3);
  EXPECT_EQ(test.label(0), 0);
  EXPECT_EQ(test.label(1), 2);
}

TEST(ImageFolder, NumbersClassesAsWeightsNameThem) {
  const TempFolder folder;
  write_pictures(folder, {"ant", "cow"}, 1, 2);
  std::filesystem::remove_all(folder.path() / "train");
  const auto open = [&](const std::vector<std::string>& classes) {
    return open_dataset("image-folder", folder.str(), Split::test, 0, classes);
  };
  const Dataset test = open({"cow", "bee", "ant"});
  EXPECT_EQ(test.classes(), 3);
  EXPECT_EQ(test.class_names(), (std::vector<std::string>{"cow", "bee", "ant"}));
  EXPECT_EQ(test.classes_without_images(), std::vector<std::string>{"bee"});
  EXPECT_EQ(test.label(0), 2);
  EXPECT_EQ(test.label(1), 0);
  EXPECT_EQ(open({}).class_names(), (std::vector<std::string>{"ant", "cow"}));
  EXPECT_THAT(
      message_of(ExitCode::bad_data,
                 [&] {
                   open({"ant", "bee"});
                 }),
      HasSubstr("val/cow: the weights know no class of this name, but ant, bee; name the folders as in training"));
}

TEST(ImageFolder, CountsPicturesOfOtherFormats) {
  const TempFolder folder;
  write_pictures(folder, {"ant", "bee"}, 2, 1);
  EXPECT_EQ(open_dataset("image-folder", folder.str(), Split::train).note(), "");
  for (const char* file : {"train/bee/3.WebP", "train/ant/7.tiff", "train/ant/8.bmp", "train/ant/notes.txt"})
    folder.write(file, {'x'});
  const Dataset train = open_dataset("image-folder", folder.str(), Split::train);
  EXPECT_EQ(train.size(), 4);
  EXPECT_THAT(train.note(),
              HasSubstr("train: left out, being neither JPEG nor PNG: 3 pictures (the first: ant/7.tiff)"));
}

TEST(ImageFolder, RefusesLinksThatLeadBack) {
  const TempFolder folder;
  write_pictures(folder, {"ant", "bee"}, 2, 1);
  const auto link = folder.path() / "train/ant/more";
  std::filesystem::create_directory_symlink("../bee", link);  // twice the same pictures is no loop
  EXPECT_EQ(open_dataset("image-folder", folder.str(), Split::train).size(), 6);
  for (const char* target : {".", "..", "../../train/ant"}) {
    std::filesystem::remove(link);
    std::filesystem::create_directory_symlink(target, link);
    EXPECT_THAT(message_of(ExitCode::bad_data, [&] { open_dataset("image-folder", folder.str(), Split::train); }),
                HasSubstr("train/ant/more: lies in itself"));
  }
}

TEST(ImageFolder, IsScaledForTheNetwork) {
  const TempFolder folder;
  write_pictures(folder, {"ant", "bee"}, 4, 2);
  auto set = std::make_shared<const Dataset>(open_dataset("image-folder", folder.str(), Split::train));
  Augmentation a;
  EXPECT_THAT(message_of(ExitCode::usage, [&] { image_shape(*set, a); }), HasSubstr("are of different sizes"));
  a.image_size = 16;
  EXPECT_EQ(image_shape(*set, a), (Shape{1, 3, 16, 16}));
  std::vector<std::uint8_t> images(2 * 3 * 16 * 16);
  std::vector<int> labels(2);
  load_plain(*set, 0, 2, a, images.data(), labels.data());
  std::vector<std::uint8_t> expected(3 * 16 * 16);
  const Image first = set->image(0);
  scale(first, center_box(first, 16, 16, 1), 16, 16, expected);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(images[i], expected[i]);

  a.random_resized_crop = true;
  const ImagePipeline pipeline(*set, a);
  std::vector<std::uint8_t> once(expected.size()), again(expected.size()), other(expected.size());
  pipeline.augmented(3, 1, 5, once.data());
  pipeline.augmented(3, 1, 5, again.data());
  pipeline.augmented(3, 1, 6, other.data());
  EXPECT_EQ(once, again);
  EXPECT_NE(once, other);
}

}  // namespace
}  // namespace syncbn::test
