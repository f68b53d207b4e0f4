#include "nn/models/models.hpp"

namespace syncbn {

int NormRule::norm(ModelBuilder& b, int x, const std::string& name, double gamma) const {
  if (!present()) return x;
  const Shape& shape = b.shape(x);
  // Layer and instance normalization are the two extremes of group normalization (Wu & He 2018, arXiv 1803.08494,
  // section 3).
  if (type_ == "group") return b.group_norm(name, x, group_count(groups_, shape), affine_, gamma);
  if (type_ == "layer") return b.group_norm(name, x, 1, affine_, gamma);
  if (type_ == "instance") return b.group_norm(name, x, shape.c(), affine_, gamma);
  if (type_ == "whitening") return b.whitening(name, x, group_channels_, affine_, gamma);
  return b.batch_norm(name, x, affine_, gamma);
}

int NormRule::norm_and_activation(ModelBuilder& b, int x, const std::string& norm_name,
                                  const std::string& activation_name, LayerType activation) const {
  if (before_activation()) x = norm(b, x, norm_name);
  x = b.activation(activation_name, x, activation, kLeakySlope);
  if (after_activation()) x = norm(b, x, norm_name);
  return x;
}

}  // namespace syncbn
