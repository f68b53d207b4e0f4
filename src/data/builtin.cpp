#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "syncbn/core/random.hpp"
#include "syncbn/data/dataset.hpp"

// Five patterns, anywhere, in any size, direction and colours, in warm or in cold colours: ten classes. The pattern is
// told by local contrasts, which any normalization keeps. The background is told by the level of whole channels: what a
// normalization over very few images takes away. Blobs in the way, noise, and brightness and contrast that differ from
// image to image keep it from being easy.
//
// Only +, -, *, / and sqrt touch the pixels (no libm, no fused multiply-add), so that they are the same on every
// machine.

namespace syncbn {
namespace {

constexpr int kSide = 32;
constexpr int kPixels = kSide * kSide;
constexpr int kChannels = 3;
constexpr int kPatterns = 5;
constexpr int kClasses = 2 * kPatterns;

using Colour = std::array<float, kChannels>;
using Plane = std::array<float, kPixels>;

struct Vec2 {
  float x, y;
};

float length(float x, float y) {
  return std::sqrt(x * x + y * y);
}

float uniform(Random& random, float low, float high) {
  return low + (high - low) * random.uniform();
}

Vec2 direction(Random& random) {
  for (;;) {
    const float x = uniform(random, -1, 1), y = uniform(random, -1, 1);
    const float r = length(x, y);
    if (r > 0.1f && r <= 1) return {x / r, y / r};
  }
}

/// Distance to the nearest edge of a periodic pattern of period 1, half of it set; negative inside.
float stripes(float t) {
  return std::fabs(t - std::floor(t) - 0.5f) - 0.25f;
}

/// Signed distance (negative inside) of a pattern that repeats with period 1.
float pattern_distance(int pattern, float u, float v) {
  const float a = u - std::floor(u) - 0.5f, b = v - std::floor(v) - 0.5f;  // within one tile
  switch (pattern) {
    case 0:
      return stripes(u);
    case 1:  // zigzag
      return stripes(u + 1.4f * std::fabs(b));
    case 2:  // checkers
      return stripes(u) * stripes(v) * 6;
    case 3:  // dots
      return length(a, b) - 0.3f;
    default:  // rings
      return std::fabs(length(a, b) - 0.32f) - 0.11f;
  }
}

/// Coverage of each pixel, 0..1, one pixel of transition at the edges.
template <class Distance>
void cover(Plane& mask, Vec2 centre, Vec2 axis, float radius, const Distance& distance) {
  for (int y = 0; y < kSide; ++y)
    for (int x = 0; x < kSide; ++x) {
      const float dx = (static_cast<float>(x) - centre.x) / radius, dy = (static_cast<float>(y) - centre.y) / radius;
      const float d = distance(dx * axis.x + dy * axis.y, dy * axis.x - dx * axis.y) * radius;
      mask[static_cast<std::size_t>(y * kSide + x)] = std::clamp(0.5f - d, 0.0f, 1.0f);
    }
}

struct Canvas {
  std::array<Plane, kChannels> planes;

  void fill(Random& random, const Colour& colour) {
    const Vec2 tilt = direction(random);
    const float slope = uniform(random, 0, 0.4f) / kSide;
    for (std::size_t c = 0; c < kChannels; ++c)
      for (int y = 0; y < kSide; ++y)
        for (int x = 0; x < kSide; ++x)
          planes[c][static_cast<std::size_t>(y * kSide + x)] =
              colour[c] +
              slope * (tilt.x * static_cast<float>(x - kSide / 2) + tilt.y * static_cast<float>(y - kSide / 2));
  }
  void paint(const Plane& mask, const Colour& colour) {
    for (std::size_t c = 0; c < kChannels; ++c)
      for (std::size_t i = 0; i < kPixels; ++i) planes[c][i] += mask[i] * (colour[c] - planes[c][i]);
  }
};

Colour random_colour(Random& random) {
  return {random.uniform(), random.uniform(), random.uniform()};
}

/// A warm colour has more red than blue, a cold one more blue than red.
Colour colour_of(Random& random, bool warm) {
  for (;;) {
    Colour colour = random_colour(random);
    if (std::fabs(colour[0] - colour[2]) < 0.1f) continue;
    if ((colour[0] > colour[2]) != warm) std::swap(colour[0], colour[2]);
    return colour;
  }
}

/// One that can be told from `other`.
Colour contrasting_colour(Random& random, bool warm, const Colour& other) {
  for (;;) {
    const Colour colour = colour_of(random, warm);
    float difference = 0;
    for (std::size_t c = 0; c < kChannels; ++c) difference += std::fabs(colour[c] - other[c]);
    if (difference >= 0.6f) return colour;
  }
}

/// Small blobs in the way.
void paint_distractors(Canvas& canvas, Random& random, Plane& mask) {
  const auto count = random.below(4);
  for (std::uint64_t i = 0; i < count; ++i) {
    const Vec2 centre{uniform(random, 0, kSide), uniform(random, 0, kSide)};
    const Vec2 axis = direction(random);
    const float radius = uniform(random, 1, 3), aspect = uniform(random, 0.3f, 1);
    cover(mask, centre, axis, radius, [&](float u, float v) { return length(u, v / aspect) - 1; });
    canvas.paint(mask, random_colour(random));
  }
}

/// Contrast, brightness and noise, then rounding to bytes.
void expose(const Canvas& canvas, Random& random, std::uint8_t* out) {
  const float contrast = uniform(random, 120, 230);  // grey levels between black and white of the canvas
  const float brightness = uniform(random, 90, 165);
  const float noise = uniform(random, 0.01f, 0.06f) * contrast / 255;
  for (std::size_t c = 0; c < kChannels; ++c)
    for (std::size_t i = 0; i < kPixels; i += 2) {
      const std::uint32_t bits = random.next();
      for (std::size_t k = 0; k < 2; ++k) {
        // The sum of two bytes has a triangular distribution: near enough to a normal one.
        const std::uint32_t half = bits >> (16 * k);
        const float deviation = static_cast<float>(half & 255) + static_cast<float>(half >> 8 & 255) - 255;
        const float value = brightness + contrast * (canvas.planes[c][i + k] - 0.5f) + noise * deviation;
        out[c * kPixels + i + k] = static_cast<std::uint8_t>(std::clamp(value + 0.5f, 0.0f, 255.0f));
      }
    }
}

void draw(int label, Random random, std::uint8_t* out) {
  Canvas canvas;
  Plane mask;
  const bool warm = label >= kPatterns;
  const Colour background = colour_of(random, warm);
  canvas.fill(random, background);
  const float period = uniform(random, 6, 11);  // pixels
  const Vec2 centre{uniform(random, 8, kSide - 8), uniform(random, 8, kSide - 8)};
  cover(mask, centre, direction(random), period,
        [label](float u, float v) { return pattern_distance(label % kPatterns, u, v); });
  canvas.paint(mask, contrasting_colour(random, warm, background));
  paint_distractors(canvas, random, mask);
  expose(canvas, random, out);
}

}  // namespace

Dataset make_builtin_dataset(Split split, std::uint64_t seed, std::int64_t size) {
  constexpr std::size_t kImage = kChannels * kPixels;
  const auto n = static_cast<std::size_t>(size);
  std::vector<std::uint8_t> pixels(n * kImage);
  std::vector<std::uint8_t> labels(n);
  for (std::size_t i = 0; i < n; ++i) {
    labels[i] = static_cast<std::uint8_t>(i % kClasses);  // balanced in every prefix
    draw(labels[i], Random(seed, Purpose::builtin_data, static_cast<std::uint64_t>(split), i),
         pixels.data() + i * kImage);
  }
  return Dataset("builtin", kChannels, kSide, kSide, kClasses, std::move(pixels), std::move(labels));
}

}  // namespace syncbn
