#pragma once

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

}  // namespace syncbn::test
