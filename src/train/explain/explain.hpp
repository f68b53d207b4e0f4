#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "syncbn/core/tensor.hpp"
#include "syncbn/nn/model.hpp"
#include "syncbn/train/config.hpp"

namespace syncbn {

/// Size of a data set, known without reading its images.
struct DataShape {
  Shape image;  ///< [1, C, H, W]
  std::int64_t classes = 10;
  std::int64_t train_images = 0, test_images = 0;
};
/// Throws Error(usage) for an unknown kind. An image-folder is listed, once per process.
DataShape data_shape(const Config::Data& data);

/// What images are scaled to, data.image_size or its default; 0: they stay as they are.
std::int64_t scaled_image_size(const Config::Data& data);

/// Messages of one kind in one update of the weights: how many, and how many bytes each worker gives in all.
struct Traffic {
  std::int64_t messages = 0;
  std::int64_t bytes = 0;
};

/// What a configuration comes to, computed without data and without a machine.
struct Explanation {
  struct Layer {
    std::string name, type, output;  ///< output: shape of one sample
    std::int64_t parameters = 0;
  };
  std::vector<Layer> layers;
  std::int64_t parameters = 0;
  std::int64_t multiply_adds = 0;     ///< of convolutions and linear layers, one sample forward
  std::int64_t activation_bytes = 0;  ///< per worker: outputs of all layers and their gradients; an estimate
  /// Per machine, or device: weights (cast ones, too), gradient and optimizer state; an estimate.
  std::int64_t weight_bytes = 0;

  int workers = 1, ranks = 1;
  std::int64_t batch_per_worker = 0;
  std::int64_t global_batch = 0;  ///< samples of one update: workers x batch_per_worker x accumulate
  int group = 1;                  ///< workers that share statistics
  std::int64_t bn_span = 0;       ///< samples whose statistics a batch norm layer uses
  std::int64_t batches_per_epoch = 0, steps = 0;
  std::vector<std::string> unreached;  ///< points of the schedule behind the last step, a line each
  std::string missing_variance;        ///< why a training would be refused that has one value per channel; else ""

  Traffic statistics_forward;   ///< 1 + 2C f64 per batch norm layer: count, sums, squared sums; whitening: products
  Traffic statistics_backward;  ///< 2C f64 per batch norm layer; whitening: C + C x channels of a group
  Traffic gradients;            ///< f32, in buckets
};

/// `config.workers` must be known (> 0); group = node counts all ranks as one host.
Explanation explain(const Config& config, int ranks);

}  // namespace syncbn
