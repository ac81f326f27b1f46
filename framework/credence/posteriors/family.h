#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "credence/priors/prior.h"

namespace credence {

/// How the weights of a tensor are distributed.
struct Family {
  enum class Kind : std::uint8_t {
    point,             // one value
    mean_field,        // independent Gaussians
    sparse,            // independent Gaussians under a log-uniform prior (Molchanov et al. 2017)
    spike_slab,        // independent: zero with some probability, else Gaussian
    dropout,           // a unit's weights all zero with probability `number` (Gal and Ghahramani 2016)
    dropconnect,       // each weight zero with probability `number` (Wan et al. 2013)
    gaussian_dropout,  // mean * (1 + sqrt(p / (1 - p)) eps) (Srivastava et al. 2014; Kingma et al. 2015)
    low_rank,          // Gaussian, covariance diagonal plus rank `number` over all such tensors together
    full_rank,         // Gaussian, full covariance over all such tensors together
    laplace,           // point, then Gaussian by its curvature (MacKay 1992); `number`: kDiagonal or kLastLayer
    swag,              // point, then Gaussian of rank `number` and a diagonal by its iterates (Maddox et al. 2019)
    categorical        // logits of q over a latent variable of the network, by which it takes expectations exactly
  };
  Kind kind = Kind::mean_field;
  double number = 0.0;
  static constexpr double kDiagonal = 0.0, kLastLayer = 1.0;  // laplace: which curvature

  bool operator==(const Family&) const = default;
  /// Whether draws have the kernels' Gaussian part, mean + scale * eps.
  bool gaussian() const {
    return kind == Kind::mean_field || kind == Kind::sparse || kind == Kind::spike_slab || kind == Kind::low_rank ||
           kind == Kind::full_rank;
  }
  /// Trained as a point estimate, random in predictions only.
  bool afterwards() const { return kind == Kind::laplace || kind == Kind::swag; }
};

/// "mean-field", "dropout:0.1", ...
Family parse_family(const std::string& spec);
std::string describe(const Family& family);

/// `ensemble:K[,FAMILY]` among specs: K members, each a posterior of its own with other initial weights. The other
/// specs as they are, FAMILY (default mean-field) in its place.
struct EnsembleSpec {
  int members = 1;
  std::vector<std::string> families;
};
EnsembleSpec split_ensemble(const std::vector<std::string>& specs);

/// Families by tensor: specs as in TensorRules. Parameters of norm layers and of the likelihood are point estimates
/// without a prior unless a rule names them.
TensorRules<Family> parse_families(const std::vector<std::string>& specs);

}  // namespace credence
