#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "credence/checkpoint/checkpoint.h"
#include "credence/communication/factory.h"
#include "credence/data/open.h"
#include "credence/estimators/estimator.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"
#include "credence/optimizers/optimizer.h"
#include "credence/posteriors/posterior.h"
#include "credence/training/options.h"
#include "informed.h"

namespace credence {

// The composition root: the only place that turns option texts into concrete classes.

/// What of this machine a rank uses.
struct Machine {
  int threads = 1;
  int loader_threads = 1;   // that decode images
  bool spare_core = false;  // beyond the threads of all ranks here
  torch::Device device = torch::kCPU;
  bool nccl = false;
  std::string instead_of_nccl = {};  // why ranks with CUDA devices exchange over MPI unasked; empty: they don't
};
/// Collective over `control`. Sets LibTorch's and OpenMP's threads, and the CUDA device of the thread that calls.
Machine choose_machine(const OptionValues& values, MpiSession& session, Communicator& control);
/// Over MPI where the run's --reduction, given or recorded, is tree and --backend leaves the choice.
void settle_backend(const OptionValues& values, Machine& machine);

/// For agreement before and beside training: any number of ranks, host memory.
std::unique_ptr<Communicator> make_control_communicator(const OptionValues& values, MpiSession& session);
/// For gradients. `reduction`: tree | fast. Rank 0 warns where CUDA devices exchange through host memory unasked.
std::unique_ptr<Communicator> make_training_communicator(const OptionValues& values, const Machine& machine,
                                                         MpiSession& session);

/// Fills in what depends on data, machine and number of ranks: likelihood, lr, scale-lr,
/// beta2, shards, reduction.
void resolve(OptionValues& values, const ExampleSpec& examples, const Machine& machine, int ranks);

struct Model {
  Likelihood likelihood;
  std::unique_ptr<Network> network;
  std::unique_ptr<Posterior> posterior;
  std::set<int> given_scales = {};  // slots whose scales came from a prior or --init
};
/// From resolved options; the network is bound to the posterior's weights. A new run starts at --init, else at an
/// informed prior, else at the network's own values.
Model build_model(const OptionValues& values, const ExampleSpec& examples, const Machine& machine,
                  const ModelOrigin& origin);

/// What --lr-scaling multiplies learning rates by.
double learning_rate_scaling(const OptionValues& values);
OptimizerOptions optimizer_options(const OptionValues& values, const Objective& objective, const Model& model);
/// Whether each rank trains members of an ensemble of its own. It then reads all of every batch, which must cost
/// little: images that are decoded are dealt to the ranks instead, and every rank works on all members.
bool deals_members(const OptionValues& values, const Model& model, const DataSource& source, int ranks);
std::unique_ptr<Estimator> build_estimator(const OptionValues& values, const Machine& machine, Model& model,
                                           Communicator& communicator);

/// linearized | sampled: how predictions use draws. What is given, if anything, in the place of the posterior's
/// default.
void choose_predictive(const std::optional<std::string>& given, Posterior& posterior);
inline constexpr std::string_view kPredictiveHelp =
    "linearized | sampled: the network made linear at the mean, or itself, under the draws (default: linearized for "
    "laplace, else sampled)";

/// A checkpoint with the model it describes, for prediction.
struct LoadedModel {
  Checkpoint checkpoint;
  OptionValues values;
  ExampleSpec examples;  // shapes and classes as in training
  DataOptions reading;   // images as in training
  Model model;
};
/// `path`: a checkpoint file, or a run directory, of which rank 0 takes the newest good one. Every rank reads that file
/// for itself, and answers the others over `control` meanwhile. DataError, UserError; also where a rank's file is not
/// that of rank 0. Collective.
LoadedModel load_model(const std::string& path, const Machine& machine, Communicator& control);

/// How `values` want images read.
DataOptions data_options(const OptionValues& values, const Machine& machine);

/// Data for a trained network, images sized and normalised as its own were. UserError where the inputs are others than
/// it takes: their shape, or the columns of a table.
std::unique_ptr<DataSource> open_for(const LoadedModel& loaded, const std::string& spec, Split split);
/// Leaves out bad records of data for a trained network, up to --max-bad-records as given or else as recorded; how many
/// there are. Collective.
std::int64_t leave_out_bad(const OptionValues& line, const LoadedModel& loaded, DataSource& source,
                           Communicator& control);
/// UserError where the labels or targets of data are others than the network was trained on.
void require_same_targets(const ExampleSpec& data, const ExampleSpec& trained, const std::string& spec);

/// The newest good checkpoint of a directory, with a warning for each newer one that was skipped. DataError where there
/// are checkpoints and none is good; null where there are none.
std::unique_ptr<Checkpoint> newest_checkpoint(const std::filesystem::path& directory);

}  // namespace credence
