#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "credence/communication/communicator.h"
#include "credence/data/data_source.h"
#include "credence/likelihoods/likelihood.h"
#include "credence/networks/network.h"
#include "credence/posteriors/posterior.h"
#include "credence/prediction/netcdf.h"

namespace credence {

struct InferenceDataParts {
  Network& network;
  Posterior& posterior;
  const Likelihood& likelihood;
  const DataSource& source;  // what is replicated
  Communicator& communicator;
};

struct InferenceDataOptions {
  int draws = 100;                     // one where nothing is random
  std::uint64_t seed = 0;              // of the run: draws are those of evaluate()
  std::int64_t block = 256;            // examples that pass the network together
  std::optional<std::string> tensors;  // regular expression; empty: all, up to kMostPosteriorBytes
  NetcdfFile::Attributes attributes;   // of /posterior, beside those of ArviZ's schema
};

/// What the posterior's draws may take where `tensors` does not choose.
inline constexpr std::int64_t kMostPosteriorBytes = std::int64_t{1} << 30;

/// Writes draws as an ArviZ InferenceData file (arviz-devs.github.io, "InferenceData schema"), which
/// arviz.from_netcdf() opens. There is one chain: draws are independent.
///
///     /posterior/TENSOR              [chain, draw, ...]   weights, dimensions TENSOR_dim_0, ...
///     /posterior_predictive/y        [chain, draw, y_dim_0]   a target of every example under each draw; labels int64,
///                                    numbers float64, several columns as y_dim_1
///     /log_likelihood/y              [chain, draw, y_dim_0]   nats
///     /observed_data/y               [y_dim_0]
///
/// Collective; rank 0 writes, the same bytes for any number of ranks. UserError for a bad or idle expression and where
/// the file would be too large, DataError where data cannot be read, StorageError, NumericalError.
void write_inference_data(const std::filesystem::path& file, const InferenceDataParts& parts,
                          const InferenceDataOptions& options);

}  // namespace credence
