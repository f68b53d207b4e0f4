#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "data/dataset.hpp"
#include "syncbn/core/random.hpp"

// Images show discs or rings, few to many: two shapes and five numbers make ten classes. The shape is visible in local
// contrasts, which any normalization preserves. The number is visible in how strongly a feature responds over the whole
// image, which a normalization over very few images scales by whatever other images are in the batch. Places, sizes,
// colours, lighting and noise differ from image to image.
//
// Only +, -, *, / and sqrt touch the pixels (no libm, no fused multiply-add), so that they are the same on every
// machine.

namespace syncbn {
namespace {

constexpr int kSide = 32;
constexpr std::size_t kPixels = kSide * kSide;
constexpr std::size_t kChannels = 3;
constexpr std::size_t kImage = kChannels * kPixels;
constexpr int kShapes = 2;
constexpr std::array<std::size_t, 5> kNumbers = {2, 4, 6, 9, 12};
constexpr int kClasses = kShapes * static_cast<int>(kNumbers.size());
constexpr int kGrid = 4;  ///< objects lie in cells of a 4x4 grid, so that none hides another
constexpr int kCell = kSide / kGrid;

/// Returns the label of image i; classes are balanced in every prefix.
int label_of(std::size_t i) {
  return static_cast<int>(i % kClasses);
}

using Colour = std::array<float, kChannels>;

float uniform(Random& random, float low, float high) {
  return low + (high - low) * random.uniform();
}

Colour random_colour(Random& random) {
  return {random.uniform(), random.uniform(), random.uniform()};
}

/// Returns a colour that is distinguishable from `other`.
Colour contrasting_colour(Random& random, const Colour& other) {
  constexpr float kDifference = 0.7f;
  for (;;) {
    const Colour colour = random_colour(random);
    float difference = 0;
    for (std::size_t c = 0; c < kChannels; ++c) difference += std::fabs(colour[c] - other[c]);
    if (difference >= kDifference) return colour;
  }
}

float length(float x, float y) {
  return std::sqrt(x * x + y * y);
}

/// Returns the distance of a point at `r` from the centre to the edge of a disc or ring (negative inside).
float edge_distance(int shape, float r, float radius) {
  return shape == 0 ? r - 0.85f * radius : std::fabs(r - 0.75f * radius) - 0.25f * radius;
}

struct Object {
  int shape;
  float x, y, radius;  ///< pixels
};

/// An image with intensities between about 0 and 1.
class Canvas {
 public:
  /// Fills with one colour, a little brighter towards a random side.
  void fill(Random& random, const Colour& colour) {
    const float slope_x = uniform(random, -0.3f, 0.3f) / kSide, slope_y = uniform(random, -0.3f, 0.3f) / kSide;
    for (std::size_t c = 0; c < kChannels; ++c)
      for (int y = 0; y < kSide; ++y)
        for (int x = 0; x < kSide; ++x)
          at(c, x, y) =
              colour[c] + slope_x * static_cast<float>(x - kSide / 2) + slope_y * static_cast<float>(y - kSide / 2);
  }

  void paint(const Object& object, const Colour& colour) {
    const auto first = [&](float centre) { return std::max(0, static_cast<int>(centre - object.radius) - 1); };
    const auto last = [&](float centre) { return std::min(kSide - 1, static_cast<int>(centre + object.radius) + 2); };
    for (int y = first(object.y); y <= last(object.y); ++y)
      for (int x = first(object.x); x <= last(object.x); ++x) {
        const float r = length(static_cast<float>(x) - object.x, static_cast<float>(y) - object.y);
        const float coverage = std::clamp(0.5f - edge_distance(object.shape, r, object.radius), 0.0f, 1.0f);
        for (std::size_t c = 0; c < kChannels; ++c) at(c, x, y) += coverage * (colour[c] - at(c, x, y));
      }
  }

  /// Adds lighting and noise, then converts to bytes.
  void expose(Random& random, std::uint8_t* out) const {
    const float contrast = uniform(random, 160, 220);  // grey levels from 0 to 1
    const float brightness = uniform(random, 90, 165);
    const float noise = uniform(random, 0.01f, 0.06f) * contrast / 255;
    for (std::size_t i = 0; i < kChannels * kPixels; i += 2) {
      const std::uint32_t bits = random.next();
      for (std::size_t k = 0; k < 2; ++k) {
        // The sum of two bytes has a triangular distribution, which is close enough to a normal one.
        const std::uint32_t half = bits >> (16 * k);
        const float deviation = static_cast<float>(half & 255) + static_cast<float>(half >> 8 & 255) - 255;
        const float value = brightness + contrast * (values_[i + k] - 0.5f) + noise * deviation;
        out[i + k] = static_cast<std::uint8_t>(std::clamp(value + 0.5f, 0.0f, 255.0f));
      }
    }
  }

 private:
  float& at(std::size_t c, int x, int y) { return values_[c * kPixels + static_cast<std::size_t>(y * kSide + x)]; }

  std::array<float, kChannels * kPixels> values_;
};

void draw(int label, Random random, std::uint8_t* out) {
  Canvas canvas;
  const Colour background = random_colour(random);
  canvas.fill(random, background);
  const Colour colour = contrasting_colour(random, background);
  std::array<int, kGrid * kGrid> cells;
  std::iota(cells.begin(), cells.end(), 0);
  for (std::size_t i = 0; i < kNumbers[label / kShapes]; ++i) {
    std::swap(cells[i], cells[i + random.below(cells.size() - i)]);
    const float radius = uniform(random, 1.8f, 3.4f), slack = kCell / 2.0f - radius;
    const auto centre = [&](int cell) {
      return static_cast<float>(cell * kCell) + 3.5f + uniform(random, -slack, slack);
    };
    const float x = centre(cells[i] % kGrid), y = centre(cells[i] / kGrid);
    canvas.paint({label % kShapes, x, y, radius}, colour);
  }
  canvas.expose(random, out);
}

/// The built-in images. Each is drawn at its first request, and kept.
class BuiltinImages final : public ImageSource {
 public:
  BuiltinImages(Split split, std::uint64_t seed, std::size_t n)
      : split_(split),
        seed_(seed),
        pixels_(std::make_unique_for_overwrite<std::uint8_t[]>(n * kImage)),
        states_(std::make_unique<std::atomic<State>[]>(n)) {}

  Image image(std::int64_t i) const override {
    const auto n = static_cast<std::size_t>(i);
    const std::span<std::uint8_t> place(pixels_.get() + n * kImage, kImage);
    State state = State::none;
    if (states_[n].compare_exchange_strong(state, State::being_drawn, std::memory_order_acquire)) {
      draw_image(n, place.data());
      states_[n].store(State::drawn, std::memory_order_release);
    } else if (state == State::being_drawn) {  // by another thread
      std::vector<std::uint8_t> own(kImage);
      draw_image(n, own.data());
      return {kSide, kSide, std::move(own)};
    }
    return {kSide, kSide, place};
  }

  std::uint64_t hash(std::int64_t, std::uint64_t seed) const override {
    constexpr std::uint64_t kDrawing = 1;  // to be incremented when images are drawn differently
    const std::array<std::uint64_t, 3> origin{kDrawing, seed_, static_cast<std::uint64_t>(split_)};
    return XXH3_64bits_withSeed(origin.data(), sizeof origin, seed);
  }

 private:
  enum class State : std::uint8_t { none, being_drawn, drawn };

  void draw_image(std::size_t i, std::uint8_t* out) const {
    draw(label_of(i), Random(seed_, Purpose::builtin_data, static_cast<std::uint64_t>(split_), i), out);
  }

  Split split_;
  std::uint64_t seed_;
  std::unique_ptr<std::uint8_t[]> pixels_;
  std::unique_ptr<std::atomic<State>[]> states_;
};

}  // namespace

Dataset make_builtin_dataset(Split split, std::uint64_t seed, std::int64_t size) {
  std::vector<std::uint16_t> labels(static_cast<std::size_t>(std::max<std::int64_t>(size, 0)));
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::uint16_t>(label_of(i));
  auto images = std::make_shared<BuiltinImages>(split, seed, labels.size());
  return Dataset("builtin", kChannels, kSide, kSide, kClasses, std::move(labels), std::move(images));
}

}  // namespace syncbn
