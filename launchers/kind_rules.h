#pragma once

#include "credence/networks/layout.h"
#include "credence/posteriors/family.h"
#include "credence/priors/prior.h"
#include "credence/training/options.h"

namespace credence {

/// What --norm-parameters and --biases say, as rules before the user's own, which go before them: norm parameters like
/// other weights (bayesian), biases as point estimates without a prior (point).
void add_kind_rules(const OptionValues& values, const Layout& network, TensorRules<Family>& families,
                    TensorRules<Prior>& priors);

}  // namespace credence
