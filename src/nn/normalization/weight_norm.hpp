#pragma once

#include <span>

namespace syncbn {

// Weight normalization (Salimans & Kingma 2016, arXiv 1602.07868): w = g * v / |v|, with one g and one norm per output,
// that is, per row of the weights [outputs, inputs...]. g: [outputs]; v, w: [outputs * inputs].

/// Computes w from g and v. A row of zeros has no direction and gives zeros.
void weight_norm(std::span<const float> g, std::span<const float> v, std::span<float> w);

/// Computes d_v and d_g from dL/dw, which d_v holds on entry: d_v = g / |v| * (dL/dw - (dL/dw . u) u) and d_g = dL/dw .
/// u, with u = v / |v|.
void weight_norm_gradient(std::span<const float> g, std::span<const float> v, std::span<float> d_v,
                          std::span<float> d_g);

/// Initializes g to scale * |v|, so that w = scale * v.
void start_gain(std::span<const float> v, double scale, std::span<float> g);

}  // namespace syncbn
