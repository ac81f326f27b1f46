#pragma once

#include <torch/torch.h>

#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "credence/kernels/kernel_set.h"
#include "credence/networks/layout.h"
#include "credence/priors/rules.h"

namespace credence {

/// N(0, scale^2) for every weight.
struct NormalPrior {
  double scale = 1.0;  // standard deviation
};
/// N(0, 1 / fan_in) for weights, so that a layer's outputs keep the variance of its inputs; N(0, 1) for biases.
struct FanInPrior {};
/// No prior: with a point posterior, maximum likelihood.
struct NoPrior {};
/// exp(-|w| / scale) / (2 scale); standard deviation sqrt(2) scale.
struct LaplacePrior {
  double scale = 1.0;
};
/// Standard deviation pi / sqrt(3) scale. With scale 1 on a logit: a uniform probability.
struct LogisticPrior {
  double scale = 1.0;
};
/// scale times Student's t with `degrees` degrees of freedom.
struct StudentTPrior {
  double degrees = 4.0;
  double scale = 1.0;
};
/// probability N(0, first_scale^2) + (1 - probability) N(0, second_scale^2) (Blundell et al. 2015, eq. 7).
struct ScaleMixturePrior {
  double probability = 0.5;
  double first_scale = 1.0;
  double second_scale = 0.002;
};
/// N(0, scale^2) with `probability`, else exactly 0 (Mitchell and Beauchamp 1988).
struct SpikeSlabPrior {
  double probability = 0.5;
  double scale = 1.0;
};
/// w ~ N(0, (lambda scale)^2), lambda half-Cauchy(1) and integrated out (Carvalho et al. 2010): one lambda for each
/// weight, or with per_unit one for all weights into a unit (a row of the weight tensor; a bias is a row of its own).
struct HorseshoePrior {
  double scale = 1.0;
  bool per_unit = false;
};
/// Density 1 / |w|, improper (Kingma et al. 2015; Molchanov et al. 2017).
struct LogUniformPrior {};
/// N(0, s^2) with one s per tensor, s half-normal with scale hyper_scale; q(s) is log-normal and learned.
struct HierarchicalPrior {
  double hyper_scale = 1.0;
};
/// N(0, s^2) with one s per tensor, the one that maximises the ELBO (type II maximum likelihood).
struct EmpiricalPrior {};
/// N(mean, (inflate scale)^2) with a mean and a scale for each weight.
struct InformedTensor {
  torch::Tensor mean;   // [slot.shape]
  torch::Tensor scale;  // [slot.shape], positive
  torch::Tensor start;  // [slot.shape], positive: scale of the posterior where training begins; undefined: the prior's
};
/// Cheapest where the tensors are float64 on the device of the weights: they are converted at each use otherwise.
struct InformedPrior {
  std::shared_ptr<const std::map<std::string, InformedTensor>> tensors;  // by name of the slot
  double inflate = 1.0;
  std::string source;  // the spec that it was read from
};
/// The posterior in a checkpoint; whoever reads files makes an InformedPrior of it before use.
struct CheckpointPrior {
  std::string file;
  double inflate = 1.0;
};
/// Means from a state dict, one scale for all; the same. With a delta the posterior does not begin with the prior's
/// scale but with delta |mean| (MOPED, Krishnan et al. 2020, sec. 3.2).
struct WeightsPrior {
  std::string file;
  double scale = 0.1;
  double delta = 0.0;  // 0: none
};
using Prior = std::variant<NormalPrior, FanInPrior, NoPrior, LaplacePrior, LogisticPrior, StudentTPrior,
                           ScaleMixturePrior, SpikeSlabPrior, HorseshoePrior, LogUniformPrior, HierarchicalPrior,
                           EmpiricalPrior, InformedPrior, CheckpointPrior, WeightsPrior>;

/// normal:S | normal:fan-in | none | laplace[:S] | logistic[:S] | student-t[:DOF[,S]] | scale-mixture[:P,S1,S2] |
/// spike-slab[:P[,S]] | horseshoe[:S][,unit] (also horseshoe:unit) | log-uniform | hierarchical[:A] | empirical |
/// checkpoint:FILE[,inflate=K] | weights:FILE[,scale=S][,delta=D]
Prior parse_prior(const std::string& spec);
/// The spec of a prior, all arguments written out; of an informed one its source.
std::string describe(const Prior& prior);

/// Standard deviation of the normal prior of one tensor, for the kernels; infinite where they have nothing to add: for
/// none, and for every prior that density.h evaluates.
double prior_scale(const Prior& prior, const Slot& slot);

TensorRules<Prior> parse_priors(const std::vector<std::string>& specs);

/// log q and log p summed over one tensor: what KL and log joint are made of. Sums are of the kernels.
/// Closed form of KL(N(m, s^2) || N(m0, s0^2)), nats.
double kl_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums);
/// E_q[-log p(w)], nats; for a point segment -log p(mean). 0 without a prior.
double cross_entropy_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums);
/// H[q], nats; 0 for a point segment.
double entropy_nats(const kernels::Segment& segment, const kernels::SegmentSums& sums);

}  // namespace credence
