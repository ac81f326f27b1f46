#include "earlier_posterior.h"

#include <algorithm>
#include <variant>

#include "credence/base/errors.h"
#include "credence/posteriors/family.h"

namespace credence {
namespace {

using enum Family::Kind;

/// One tensor of a checkpoint's posterior.
class Reader {
 public:
  Reader(const Checkpoint& checkpoint, const std::string& tensor, at::IntArrayRef shape)
      : checkpoint_(checkpoint), tensor_(tensor), shape_(shape) {}

  Family family() const {
    const auto& attributes = checkpoint_.attributes_of("posterior/" + tensor_);
    const auto found = attributes.find("family");
    const auto* const text = found == attributes.end() ? nullptr : std::get_if<std::string>(&found->second);
    return text == nullptr ? Family{} : parse_family(*text);
  }
  /// Undefined unless it is there in the tensor's shape.
  torch::Tensor fitting(const std::string& array) const {
    const torch::Tensor values = any(array);
    return values.defined() && values.sizes() == shape_ ? values : torch::Tensor();
  }
  torch::Tensor any(const std::string& array) const {
    return read_tensor(checkpoint_, "posterior/" + tensor_ + "/" + array);
  }
  /// Of an array that the family has.
  torch::Tensor needed(const std::string& array) const {
    torch::Tensor values = any(array);
    if (!values.defined()) {
      throw DataError(
          fmt::format("{} lacks posterior/{}/{}, which its family has", checkpoint_.file().string(), tensor_, array));
    }
    return values;
  }
  /// A variance for each weight, from numbers in the same order.
  torch::Tensor shaped(const torch::Tensor& variances) const { return variances.reshape(shape_); }
  void require_collected(std::int64_t least) const {
    require(checkpoint_.integer("collected") >= least,
            "{}: its posterior {} is fitted towards the end of the run, which has not ended; continue that run first",
            checkpoint_.file().string(), describe(family()));
  }
  std::int64_t collected() const { return checkpoint_.integer("collected"); }

 private:
  const Checkpoint& checkpoint_;
  const std::string& tensor_;
  at::IntArrayRef shape_;
};

torch::Tensor swag_variance(const Reader& reader) {
  reader.require_collected(2);
  const torch::Tensor deviations = reader.needed("deviations");
  const std::int64_t rank = std::min(deviations.size(0), reader.collected());
  return 0.5 * reader.needed("variance").clamp_min(0.0) +
         deviations.narrow(0, 0, rank).square().sum(0) / (2.0 * static_cast<double>(rank - 1));
}

torch::Tensor laplace_variance(const Reader& reader, const Family& family) {
  reader.require_collected(1);
  if (family.number == Family::kDiagonal) return reader.needed("precision").reciprocal();
  return reader.shaped(reader.needed("covariance_root").square().sum(1));
}

/// Of what the family adds to independent Gaussians of the scales stored; undefined: nothing.
torch::Tensor further_variance(const Reader& reader, const Family& family) {
  if (family.kind == low_rank) return reader.needed("factor").square().sum(-1);
  if (family.kind != full_rank) return {};
  const torch::Tensor lower = reader.needed("lower");  // the draw's are 1 / sqrt(weights) of these
  return reader.shaped(lower.square().sum(1) / static_cast<double>(lower.size(1)));
}

bool is_correlated(const Family& family) {
  return family.kind == low_rank || family.kind == full_rank || family.kind == swag ||
         family == Family{laplace, Family::kLastLayer};
}

}  // namespace

Marginals marginals_in(const Checkpoint& checkpoint, const std::string& tensor, at::IntArrayRef shape) {
  const Reader reader(checkpoint, tensor, shape);
  Marginals marginals{reader.fitting("mean"), {}, {}};
  if (!marginals.mean.defined()) return {};
  const Family family = reader.family();
  const bool gaussian = family.gaussian() && family.kind != spike_slab;
  require(
      gaussian || family.afterwards() || family.kind == point || family.kind == categorical,
      "{}: {} has the posterior {} there, and the prior checkpoint:FILE takes Gaussian ones; give the tensor a prior "
      "of its own, as in --prior '{}=normal:1', or start at its values by --init",
      checkpoint.file().string(), tensor, describe(family), tensor);
  if (gaussian) {
    marginals.scale = reader.fitting("scale");
    const torch::Tensor further = further_variance(reader, family);
    if (marginals.scale.defined() && further.defined()) marginals.scale = (marginals.scale.square() + further).sqrt();
  } else if (family.kind == laplace) {
    marginals.scale = laplace_variance(reader, family).sqrt();
  } else if (family.kind == swag) {
    marginals.scale = swag_variance(reader).sqrt();
    marginals.mean = reader.needed("average");
  }
  if (!marginals.scale.defined()) return {};
  if (is_correlated(family)) marginals.left_out = describe(family);
  return marginals;
}

std::vector<std::string> copy_further_arrays(const TensorFile& file, Posterior& posterior,
                                             const std::function<bool(const std::string&)>& skipped) {
  const Checkpoint* const checkpoint = file.checkpoint();
  if (checkpoint == nullptr) return {};
  const PosteriorPlan& plan = posterior.plan();
  const auto name_in_file = [&](int slot) {  // members of an ensemble all start at the file's
    const std::string& name = plan.layout.slots[static_cast<std::size_t>(slot)].name;
    return plan.members == 1 ? name : name.substr(name.find('.') + 1);
  };
  std::vector<std::string> left_out;
  for (const ArrayView& stored : checkpoint->arrays()) {
    if (!stored.name.starts_with("posterior/")) continue;
    const auto end = stored.name.rfind('/');
    const std::string tensor = stored.name.substr(10, end - 10), array = stored.name.substr(end + 1);
    if (array == "mean" || array == "scale" || array == "raw_scale" || skipped(tensor)) continue;
    bool placed = false;
    for (int slot = plan.network_slots; slot < static_cast<int>(plan.layout.slots.size()); ++slot) {
      const Slot& place = plan.layout.slots[static_cast<std::size_t>(slot)];
      if (place.array != array || place.shape != stored.shape || name_in_file(slot) != tensor) continue;
      posterior.view(posterior.mean(), slot).copy_(read_tensor(*checkpoint, stored.name));
      placed = true;
    }
    if (!placed) left_out.push_back(tensor + "/" + array);
  }
  return left_out;
}

}  // namespace credence
