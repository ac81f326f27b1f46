#pragma once

#include <string>
#include <vector>

namespace credence {

/// A module with latent variables beside its weights derives from this too and so tells what its parameters are.
class LatentModel {
 public:
  virtual ~LatentModel() = default;

  /// Whether a parameter belongs to q of an example's own latent variables (an encoder) rather than to the model of the
  /// data: such are point estimates without a prior unless a rule names them.
  virtual bool is_amortized(const std::string&) const { return false; }
  /// Whether a parameter holds what groups of examples add to weights that they share, the group being the last axis:
  /// its normal prior has one scale for all groups, learned unless a rule names it.
  virtual bool is_deviation(const std::string&) const { return false; }
  /// Where a parameter holds the logits [K] of q over one latent variable that all examples share: log p of its K
  /// values. Else empty. The module takes the expectation over q exactly; q's KL is the posterior's.
  virtual std::vector<double> categorical_log_prior(const std::string&) const { return {}; }
};

}  // namespace credence
