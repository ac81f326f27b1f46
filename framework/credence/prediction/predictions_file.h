#pragma once

#include <filesystem>

#include "credence/data/data_source.h"
#include "credence/prediction/evaluation.h"

namespace credence {

/// Writes what figures are drawn from as one HDF5 file, under a temporary name that is renamed at the end; an older
/// file is replaced. Called by one rank. StorageError names file and call. `source` is what was evaluated.
///
///     attributes of /, /mean and /elbo   numbers as in to_json; of / also classes and class_names (one a line)
///     /labels /predicted /correct /confidence /log_likelihood /brier /entropy /mutual_information   [N]
///     /label_rank                        [N]; see ClassPredictions
///     /risk                              [N]; see RiskCoverage
///     /probabilities                     [N, C], where kept
///     /reliability/{count,confidence,accuracy}   [bins]
///     /inputs/{most_sure,least_sure}/{index,pixels}   the 16 images of least and of most entropy, [16, C, H, W] as
///     they
///                                        were before normalisation, 0 to 1
///     /ood/entropy                       [M]
///     /surface/{x,y}                     [W], [H]
///     /surface/{probability,label_stddev,probability_stddev}   [H, W]
///     /surface/points                    [N, 2] the evaluated inputs
///     /regression/{targets,mean,scale,aleatoric_scale,epistemic_scale,lower,upper}   [N, D]; see RegressionPredictions
///     /regression/log_likelihood         [N]
///     /generative/{elbo,importance_bound}   [N] nats; /ood/importance_bound [M]
///     /generative/{inputs,reconstructions,samples}   [16, C, H, W] twice and [64, C, H, W], pixels 0 to 1
void write_predictions(const std::filesystem::path& file, const Evaluation& evaluation, const DataSource& source);

}  // namespace credence
