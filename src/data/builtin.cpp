#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "syncbn/core/random.hpp"
#include "syncbn/data/dataset.hpp"

// Ten shapes and textures, anywhere, in any size, direction and colours, before a background with distractors. What
// makes the set a test of normalization is the last step: brightness and contrast change so much from image to image
// that the statistics of two images say little about the next two.
//
// Only +, -, *, / and sqrt touch the pixels (no libm, no fused multiply-add), so that they are the same on every
// machine.

namespace syncbn {
namespace {

constexpr int kSide = 32;
constexpr int kPixels = kSide * kSide;
constexpr int kChannels = 3;
constexpr int kClasses = 10;

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

float box(float u, float v, float half_width, float half_height) {
  return std::max(std::fabs(u) - half_width, std::fabs(v) - half_height);
}

/// Signed distance (negative inside) of the shape of class `label` in its own frame, where it has a radius of about 1.
float shape_distance(int label, float u, float v) {
  const float r = length(u, v);
  switch (label) {
    case 0:  // disc
      return r - 0.9f;
    case 1:  // ring
      return std::fabs(r - 0.75f) - 0.22f;
    case 2:  // square
      return box(u, v, 0.78f, 0.78f);
    case 3:  // triangle
      return std::max({-v, 0.8660254f * u + 0.5f * v, -0.8660254f * u + 0.5f * v}) - 0.5f;
    case 4:  // plus
      return std::min(box(u, v, 0.95f, 0.3f), box(u, v, 0.3f, 0.95f));
    case 5:  // striped disc
      return std::max(r - 1, stripes(u * 1.5f) / 1.5f);
    case 6:  // checkered square
      return std::max(box(u, v, 0.85f, 0.85f), -std::max(stripes(u * 1.1765f), stripes(v * 1.1765f)) *
                                                   std::min(stripes(u * 1.1765f), stripes(v * 1.1765f)) * 12);
    case 7:  // crescent
      return std::max(r - 0.95f, 0.75f - length(u - 0.45f, v));
    case 8:  // two dots
      return std::min(length(u - 0.6f, v), length(u + 0.6f, v)) - 0.4f;
    default:  // L
      return std::min(box(u + 0.55f, v, 0.28f, 0.9f), box(u, v + 0.62f, 0.83f, 0.28f));
  }
}

/// Coverage of each pixel by a shape, 0..1, one pixel of transition at the edges.
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

/// A colour that can be told from `other`.
Colour contrasting_colour(Random& random, const Colour& other, float at_least) {
  for (;;) {
    const Colour colour = random_colour(random);
    float difference = 0;
    for (std::size_t c = 0; c < kChannels; ++c) difference += std::fabs(colour[c] - other[c]);
    if (difference >= at_least) return colour;
  }
}

/// Small blobs and strokes that belong to no class.
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
  const float exposure = random.uniform();
  const float contrast = 30 + 200 * exposure * exposure;  // grey levels between black and white of the canvas
  const float brightness = uniform(random, contrast / 2 - 20, 255 - contrast / 2 + 20);
  const float noise = uniform(random, 0.02f, 0.10f) * contrast / 255;
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
  const Colour background = random_colour(random);
  canvas.fill(random, background);
  paint_distractors(canvas, random, mask);
  const float radius = uniform(random, 5, 11);
  const float margin = std::min(radius, kSide / 2 - 4.0f);
  const Vec2 centre{uniform(random, margin, kSide - margin), uniform(random, margin, kSide - margin)};
  cover(mask, centre, direction(random), radius, [label](float u, float v) { return shape_distance(label, u, v); });
  canvas.paint(mask, contrasting_colour(random, background, 0.7f));
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
