#pragma once

#include <cstdint>

#include "syncbn/core/tensor.hpp"

namespace syncbn::ops::cpu {

/// One sample of any layout as [count][positions][width] with channel = panel * width + lane: blocked layouts have
/// panels as wide as their block, channels_last is one panel as wide as C, channels_first has panels of width 1.
/// Without spatial extent every layout is one row of channels.
struct Panels {
  std::int64_t count, positions, width, channels;

  Panels(Layout layout, std::int64_t c, std::int64_t spatial) : channels(c) {
    const std::int64_t block = block_of(layout);
    if (block > 1) {
      count = (c + block - 1) / block, positions = spatial, width = block;
    } else if (layout == Layout::channels_last || spatial == 1) {
      count = 1, positions = spatial, width = c;
    } else {
      count = c, positions = spatial, width = 1;
    }
  }
  explicit Panels(const Tensor& t) : Panels(t.layout, t.shape.c(), t.shape.spatial()) {}

  std::int64_t size() const { return count * positions * width; }
  std::int64_t offset(std::int64_t channel, std::int64_t position) const {
    return (channel / width * positions + position) * width + channel % width;
  }
};

/// Padding of blocked layouts holds zeros.
inline void clear_padding(const Panels& p, float* sample) {
  for (std::int64_t c = p.channels; c < p.count * p.width; ++c) {
    for (std::int64_t i = 0; i < p.positions; ++i) sample[p.offset(c, i)] = 0;
  }
}

/// A number of consecutive samples.
struct Extent {
  Panels panels;
  std::int64_t samples;
};

}  // namespace syncbn::ops::cpu
