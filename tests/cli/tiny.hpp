#pragma once

#include <iterator>
#include <string>

namespace syncbn::test {

/// A configuration that trains in a second; three workers, the last batch uneven.
inline constexpr const char* kTiny = R"(
seed: 3
workers: 3
batch_per_worker: 4
data: {kind: builtin, train_limit: 100, test_limit: 50}
model:
  name: layers
  layers:
    - {type: conv2d, out: 8, kernel: 3, stride: 2, bias: false}
    - {type: batch_norm}
    - {type: relu}
    - {type: global_avg_pool}
    - {type: linear, out: 10}
train: {epochs: 2, log_every: 1}
)";

/// A grey PNG of one pixel.
inline std::string pixel() {
  constexpr unsigned char kBytes[] = {137, 80,  78, 71,  13, 10,  26, 10, 0,  0,  0,   13,  73,  72,  68, 82,  0, 0,
                                      0,   1,   0,  0,   0,  1,   8,  0,  0,  0,  0,   58,  126, 155, 85, 0,   0, 0,
                                      13,  73,  68, 65,  84, 120, 1,  1,  2,  0,  253, 255, 0,   128, 0,  130, 0, 129,
                                      195, 110, 37, 224, 0,  0,   0,  0,  73, 69, 78,  68,  174, 66,  96, 130};
  return {std::begin(kBytes), std::end(kBytes)};
}

}  // namespace syncbn::test
