#include "credence/training/dealt_update.h"

#include <type_traits>

#include "credence/base/errors.h"
#include "credence/base/stopwatch.h"

namespace credence {
namespace {

Buffer buffer_of(const torch::Tensor& host) {
  const DType dtype = host.scalar_type() == torch::kFloat64 ? DType::float64 : DType::float32;
  return {host.data_ptr(), host.numel(), dtype, Device::cpu};
}

}  // namespace

MemberRange members_of_rank(int members, int ranks, int rank) {
  ensure(members % ranks == 0, "members of an ensemble that the ranks cannot share evenly");
  const int each = members / ranks;
  return {rank * each, (rank + 1) * each};
}

DealtUpdate::DealtUpdate(RunState& state, Communicator& communicator, const UpdateShare& share)
    : state_(state),
      communicator_(communicator),
      share_(share),
      own_(state.posterior.worked_on()),
      deals_members_(communicator.size() > 1 && !state.posterior.works_on_all()) {}

void DealtUpdate::sum(double* numbers, std::int64_t count) {
  const Stopwatch watch;
  communicator_.all_reduce({numbers, count, DType::float64, Device::cpu}, Reduction::sum).wait();
  waited_seconds_ += watch.seconds();
}

void DealtUpdate::sum(std::vector<kernels::SegmentSums>& sums) {
  if (!deals_members_ && !share_.dealt()) return;
  constexpr std::size_t kNumbers = sizeof(kernels::SegmentSums) / sizeof(double);
  static_assert(
      std::is_standard_layout_v<kernels::SegmentSums> && sizeof(kernels::SegmentSums) == kNumbers * sizeof(double),
      "doubles and nothing else");
  sum(reinterpret_cast<double*>(sums.data()), static_cast<std::int64_t>(kNumbers * sums.size()));
}

void DealtUpdate::sum(std::vector<TermNats>& terms) {
  if (!deals_members_ || terms.empty()) return;
  std::vector<double> nats;
  for (const TermNats& term : terms) nats.insert(nats.end(), {term.cross_entropy, term.entropy});
  sum(nats.data(), static_cast<std::int64_t>(nats.size()));
  for (std::size_t i = 0; i < terms.size(); ++i) {
    terms[i].cross_entropy = nats[2 * i];
    terms[i].entropy = nats[2 * i + 1];
  }
}

void DealtUpdate::gather_heads(const torch::Tensor& arena) {
  if (!arena.defined()) return;
  std::vector<Pending> in_flight;
  for (const UpdateShare::Head& head : share_.heads()) {
    in_flight.push_back(communicator_.all_gather(buffer_of(arena.narrow(0, head.offset, head.count))));
  }
  for (Pending& pending : in_flight) pending.wait();
}

void DealtUpdate::spread_draw() {
  if (!share_.dealt()) return;
  const Stopwatch watch;
  gather_heads(state_.posterior.weights());
  waited_seconds_ += watch.seconds();
}

/// Neighbouring slots of one rank travel together.
void DealtUpdate::gather_members(const torch::Tensor& arena, const Layout& layout,
                                 const std::vector<int>& member_of_slot) {
  if (!arena.defined()) return;
  const int each = own_.last - own_.first;
  const auto root_of = [&](std::size_t slot) { return member_of_slot[slot] / each; };
  for (std::size_t first = 0; first < layout.slots.size();) {
    std::size_t last = first;
    while (last < layout.slots.size() && root_of(last) == root_of(first)) ++last;
    const std::int64_t begin = layout.slots[first].offset;
    const std::int64_t end = last < layout.slots.size() ? layout.slots[last].offset : layout.elements;
    torch::Tensor part = arena.narrow(0, begin, end - begin);
    torch::Tensor host = part.cpu();
    communicator_.broadcast(buffer_of(host), root_of(first)).wait();
    if (part.is_cuda()) part.copy_(host);
    first = last;
  }
}

void DealtUpdate::gather_members() {
  Posterior& posterior = state_.posterior;
  const PosteriorPlan& plan = posterior.plan();
  std::vector<int> members, members_of_kept;
  for (std::size_t i = 0; i < plan.layout.slots.size(); ++i) members.push_back(plan.member_of(static_cast<int>(i)));
  for (const int owner : plan.kept_owners) members_of_kept.push_back(plan.member_of(owner));
  gather_members(posterior.mean(), plan.layout, members);
  gather_members(posterior.raw_scale(), plan.layout, members);
  gather_members(posterior.kept(), plan.kept, members_of_kept);
  for (const auto& [name, arena] : state_.optimizer.state()) gather_members(arena, plan.layout, members);
  posterior.work_on({0, plan.members});
}

void DealtUpdate::gather() {
  const Stopwatch watch;
  const torch::NoGradGuard no_grad;
  if (deals_members_) gather_members();
  if (share_.dealt()) {
    gather_heads(state_.posterior.mean());
    gather_heads(state_.posterior.raw_scale());
    for (const auto& [name, arena] : state_.optimizer.state()) gather_heads(arena);
  }
  gathering_seconds_ += watch.seconds();
}

void DealtUpdate::deal() {
  if (deals_members_) state_.posterior.work_on(own_);
}

}  // namespace credence
