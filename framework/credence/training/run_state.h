#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "credence/checkpoint/checkpoint.h"
#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"
#include "credence/networks/network.h"
#include "credence/optimizers/optimizer.h"
#include "credence/posteriors/posterior.h"
#include "credence/training/history.h"

namespace credence {

/// What identifies a run beside its tensors; stored as attributes.
struct RunIdentity {
  std::string config;  // all options but machine ones, resolved
  std::uint64_t seed = 0;
  int shards = 1;
  std::int64_t dataset_size = 0;
  std::string dataset_digest;
  int world_size = 1;
  int threads = 1;
  std::string bound;  // what `elbo` is
  ExampleSpec examples;
};

/// Everything that a run needs to go on as if it had never stopped: references to what training changes.
struct RunState {
  Network& network;
  Posterior& posterior;
  Optimizer& optimizer;
  History history;
  std::int64_t step = 0;  // completed
  double epoch = 0.0;
  bool finished = false;
  std::map<std::string, double> numbers = {};  // found at the end of the run: attributes of its last checkpoint
};

/// A checkpoint's content in host memory: views of the arenas on CPU, copies of what lives elsewhere or is derived.
struct Snapshot {
  CheckpointContents contents;
  std::vector<torch::Tensor> owned;  // what the views point into
};
Snapshot take_snapshot(const RunState& state, const RunIdentity& identity);

/// Fills posterior, optimizer, buffers, history and step. UserError names the first tensor that is missing, has another
/// shape or has no place (another network or posterior) and a dataset of another size or content.
void restore(const Checkpoint& checkpoint, const RunIdentity& identity, RunState& state);

/// Shapes, classes and normalisation of the training data, as recorded.
ExampleSpec examples_of(const Checkpoint& checkpoint);

/// Rank 0's posterior, optimizer, buffers, history and step on every rank. Collective.
void broadcast_state(RunState& state, Communicator& communicator);

/// Fills the posterior and the buffers only, for prediction.
void restore_posterior(const Checkpoint& checkpoint, Network& network, Posterior& posterior);

}  // namespace credence
