#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "data/dataset.hpp"
#include "syncbn/comm/communicator.hpp"

namespace syncbn {

/// The place of the label's logit among all, the largest first, of equal ones that of the smaller class: 1 where the
/// label is predicted. 0 where a logit is NaN or +inf, or all are -inf, which has no softmax.
int label_rank(std::span<const float> logits, int label);

/// What a network says of an image.
struct Prediction {
  std::int32_t predicted = -1;  ///< class
  std::int32_t label_rank = 0;  ///< with 0, nothing is predicted
  /// By the softmax, of the class that is predicted and of the label.
  float probability = std::numeric_limits<float>::quiet_NaN();
  float label_probability = std::numeric_limits<float>::quiet_NaN();
};
Prediction predict(std::span<const float> logits, int label);

/// Joins the workers' predictions, each of its slice of so many images, on worker 0, in the order of the data set;
/// returns nothing on others. Collective.
std::vector<Prediction> gather(std::span<const Prediction> own, std::int64_t images, const Communicator& all);

/// A row per image: index,file,label,prediction,probability,label_probability,label_rank. There is a column of files
/// where images have some; classes go by their names if these are known; what is not predicted is empty.
std::string predictions_csv(const Dataset& dataset, std::span<const Prediction> predictions);

}  // namespace syncbn
