#include "data/loading/image_scale.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace syncbn {

namespace {

double uniform(Random& random, double low, double high) {
  return low + (high - low) * static_cast<double>(random.uniform());
}

/// Rounds to whole pixels, at least one.
std::int64_t whole(double pixels) {
  return std::max<std::int64_t>(1, std::llround(pixels));
}

Box in_the_middle(const Image& image, std::int64_t height, std::int64_t width) {
  return {(image.height() - height) / 2, (image.width() - width) / 2, height, width};
}

/// The weights of source pixels for each pixel of a result: triangles as wide as the reduction factor, cut off at the
/// edges.
class Triangles {
 public:
  Triangles(std::int64_t from, std::int64_t to) {
    const double step = static_cast<double>(from) / static_cast<double>(to), reach = std::max(1.0, step);
    for (std::int64_t i = 0; i < to; ++i) {
      const double center = (static_cast<double>(i) + 0.5) * step;
      const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(center - reach + 0.5));
      const auto end = std::min(from, static_cast<std::int64_t>(center + reach + 0.5));
      const auto weight = [&](std::int64_t at) {
        return std::max(0.0, 1 - std::abs(static_cast<double>(at) + 0.5 - center) / reach);
      };
      double sum = 0;
      for (std::int64_t at = first; at < end; ++at) sum += weight(at);
      places_.push_back({first, weights_.size(), static_cast<std::size_t>(end - first)});
      for (std::int64_t at = first; at < end; ++at) weights_.push_back(static_cast<float>(weight(at) / sum));
    }
  }

  /// Computes row = place i of each column of [.., stride] bytes.
  void mix(std::int64_t i, const std::uint8_t* bytes, std::int64_t stride, std::span<float> row) const {
    const Place& place = places_[i];
    std::fill(row.begin(), row.end(), 0.0f);
    bytes += place.first * stride;
    for (std::size_t k = 0; k < place.count; ++k, bytes += stride) {
      const float weight = weights_[place.weights + k];
      for (std::size_t x = 0; x < row.size(); ++x) row[x] += weight * static_cast<float>(bytes[x]);
    }
  }

  /// Computes all places of a row, rounded to bytes.
  void apply(std::span<const float> row, std::uint8_t* out) const {
    for (const Place& place : places_) {
      const float* from = row.data() + place.first;
      float sum = 0.5f;
      for (std::size_t k = 0; k < place.count; ++k) sum += weights_[place.weights + k] * from[k];
      *out++ = static_cast<std::uint8_t>(std::clamp(sum, 0.0f, 255.0f));
    }
  }

 private:
  struct Place {
    std::int64_t first;
    std::size_t weights, count;
  };
  std::vector<Place> places_;
  std::vector<float> weights_;
};

}  // namespace

Box center_box(const Image& image, std::int64_t height, std::int64_t width, double fraction) {
  const auto out_h = static_cast<double>(height), out_w = static_cast<double>(width);
  // Places in the result, in pixels of the image.
  const double pixel =
      fraction * std::min(static_cast<double>(image.height()) / out_h, static_cast<double>(image.width()) / out_w);
  return in_the_middle(image, whole(pixel * out_h), whole(pixel * out_w));
}

Box random_box(const Image& image, Random& random) {
  constexpr double kLeastArea = 0.08, kProportion = 4.0 / 3;
  constexpr int kTries = 10;
  const std::int64_t h = image.height(), w = image.width();
  for (int i = 0; i < kTries; ++i) {
    const double area = static_cast<double>(h * w) * uniform(random, kLeastArea, 1);
    const double proportion = std::exp(uniform(random, -std::log(kProportion), std::log(kProportion)));
    const std::int64_t height = whole(std::sqrt(area / proportion)), width = whole(std::sqrt(area * proportion));
    if (height > h || width > w) continue;
    const auto top = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(h - height + 1)));
    const auto left = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(w - width + 1)));
    return {top, left, height, width};
  }
  return in_the_middle(image, std::min(h, whole(static_cast<double>(w) * kProportion)),
                       std::min(w, whole(static_cast<double>(h) * kProportion)));
}

// Own code, since of the packaged libraries one aborts at some proportions and another reduces without a filter as wide
// as the reduction.
void scale(const Image& image, const Box& box, std::int64_t height, std::int64_t width, std::span<std::uint8_t> out) {
  const Triangles rows(box.height, height), columns(box.width, width);
  const std::int64_t plane = image.height() * image.width();
  const auto channels = static_cast<std::int64_t>(image.pixels().size()) / plane;
  std::vector<float> row(static_cast<std::size_t>(box.width));
  std::uint8_t* to = out.data();
  for (std::int64_t c = 0; c < channels; ++c) {
    const std::uint8_t* from = image.pixels().data() + c * plane + box.top * image.width() + box.left;
    for (std::int64_t y = 0; y < height; ++y, to += width) {
      rows.mix(y, from, image.width(), row);
      columns.apply(row, to);
    }
  }
}

}  // namespace syncbn
