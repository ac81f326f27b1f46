#pragma once

#include <memory>
#include <string>
#include <vector>

#include "credence/kernels/kernel_set.h"
#include "credence/networks/layout.h"
#include "credence/posteriors/family.h"
#include "credence/posteriors/structure.h"
#include "credence/priors/density.h"
#include "credence/priors/prior.h"

namespace credence {

/// A prior that the kernels do not know, of one tensor.
struct PriorTerm {
  int slot = 0;
  Prior prior;
  bool monte_carlo = false;  // -log p(w) at the draws; else E_q[-log p(w)] in closed form
  std::vector<int> arrays;   // slots of its further arrays
};

/// Initial values of a further array: N(constant, deviation^2).
struct ArrayStart {
  int slot = 0;
  double constant = 0.0;
  double deviation = 0.0;
};

/// Members [first, last) of an ensemble.
struct MemberRange {
  int first = 0;
  int last = 1;
};

/// A posterior before it has values: what is Gaussian, under which prior, with which further arrays.
struct PosteriorPlan {
  Layout layout;                           // the network's slots, once for each member, then further arrays
  int members = 1;                         // of an ensemble
  int network_slots = 0;                   // how many of the slots are the network's, over all members
  std::int64_t network_elements = 0;       // of an arena that holds the network's slots only, over all members
  std::vector<kernels::Segment> segments;  // of every slot
  std::vector<Family> families;            // of the network's slots, over all members
  std::vector<Prior> priors;               // the same
  std::vector<PriorTerm> terms;
  std::vector<std::unique_ptr<Structure>> structures;
  std::vector<ArrayStart> starts;
  Layout kept;  // arrays that are stored with the posterior but not optimised, by name of the tensor and of the array
  std::vector<int> array_owners;  // of each further array the network's slot that it belongs to
  std::vector<int> kept_owners;   // the same of `kept`

  int member_slots() const { return network_slots / members; }
  std::int64_t member_elements() const { return network_elements / members; }
  /// Of a slot of the layout; further arrays are of their owners' members.
  int member_of(int slot) const;

  /// A new slot named after the network's slot that it belongs to; returns its index.
  int add_array(int owner, const std::string& array, std::vector<std::int64_t> shape, ArrayStart start);
  /// The same for an array in `kept`.
  int keep_array(int owner, const std::string& array, std::vector<std::int64_t> shape);
};

/// UserError where family and prior of a tensor do not go together, with the way out.
PosteriorPlan plan_posterior(const Layout& network, const TensorRules<Family>& families,
                             const TensorRules<Prior>& priors, int members = 1);

/// What `elbo` is for this posterior, in words: the checkpoint's attribute `bound`.
std::string describe_bound(const PosteriorPlan& plan);
/// Whether that is a bound on the evidence, or a finite number at all.
bool has_bound(const PosteriorPlan& plan);

}  // namespace credence
