#pragma once

namespace syncbn {

/// The gradient's squared length and the trace of the covariance of single samples' gradients: trace / squared is the
/// simple noise scale, the batch size at which noise and signal are equal (McCandlish et al. 2018, arXiv 1812.06162).
struct GradientNoise {
  double squared = 0;  ///< estimates |G|^2; may be negative
  double trace = 0;    ///< estimates tr(Sigma)
};

/// Unbiased estimates (there: appendix A.1) from the gradients of a batch of `all` independent samples and of its
/// `parts` non-empty parts of any sizes n_w: `big` = |mean gradient of all|^2, `small` = sum of n_w / all * |mean
/// gradient of part w|^2. With these weights the expectation of `small` is |G|^2 + tr(Sigma) * parts / all, as for even
/// parts of all / parts samples. NaN for one part.
GradientNoise gradient_noise(double small, double parts, double big, double all);

}  // namespace syncbn
