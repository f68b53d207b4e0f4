#include "train/predictions.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/text.hpp"
#include "data/loading/loader.hpp"

namespace syncbn {

int label_rank(std::span<const float> logits, int label) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float own = logits[label];
  int before = 0;
  bool below_infinity = true, any_finite = false;
  for (int k = 0; k < static_cast<int>(logits.size()); ++k) {
    const float z = logits[k];
    before += z > own || (z == own && k < label);
    below_infinity &= z < kInfinity;  // not for NaN
    any_finite |= z > -kInfinity;
  }
  return below_infinity && any_finite ? before + 1 : 0;
}

Prediction predict(std::span<const float> logits, int label) {
  Prediction p;
  p.label_rank = label_rank(logits, label);
  if (p.label_rank == 0) return p;
  const auto top = std::max_element(logits.begin(), logits.end());
  double denominator = 0;
  for (const float z : logits) denominator += std::exp(static_cast<double>(z) - *top);
  p.predicted = static_cast<std::int32_t>(top - logits.begin());
  p.probability = static_cast<float>(1 / denominator);
  p.label_probability = static_cast<float>(std::exp(static_cast<double>(logits[label]) - *top) / denominator);
  return p;
}

std::vector<Prediction> gather(std::span<const Prediction> own, std::int64_t images, const Communicator& all) {
  std::vector<Prediction> every, part;
  for (int w = 0; w < all.size(); ++w) {
    part.assign(static_cast<std::size_t>(slice_of(images, all.size(), w).count), {});
    if (w == all.rank()) std::copy(own.begin(), own.end(), part.begin());
    all.broadcast(std::as_writable_bytes(std::span(part)), w, {"predictions", w});
    if (all.rank() == 0) every.insert(every.end(), part.begin(), part.end());
  }
  return every;
}

std::string predictions_csv(const Dataset& dataset, std::span<const Prediction> predictions) {
  const auto name = [names = dataset.class_names()](int label) {
    return names.empty() ? std::to_string(label) : csv_cell(names[label]);
  };
  const bool files = dataset.size() > 0 && !dataset.file(0).empty();
  std::string csv =
      fmt::format("index,{}label,prediction,probability,label_probability,label_rank\n", files ? "file," : "");
  for (std::int64_t i = 0; i < dataset.size(); ++i) {
    const Prediction& p = predictions[i];
    csv += fmt::format("{},", i);
    if (files) csv += csv_cell(dataset.file(i)) + ",";
    csv += name(dataset.label(i));
    csv += p.label_rank == 0
               ? ",,,,\n"
               : fmt::format(",{},{},{},{}\n", name(p.predicted), p.probability, p.label_probability, p.label_rank);
  }
  return csv;
}

}  // namespace syncbn
