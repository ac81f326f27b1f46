#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>

#include "assembly.h"
#include "credence/base/errors.h"
#include "credence/base/log.h"
#include "credence/base/text.h"
#include "credence/communication/nccl_devices.h"
#include "credence/kernels/cuda_identity.h"

namespace credence {
namespace {

constexpr int kMostLoaderThreads = 32;  // unless asked for

/// The cores that this process may use, as text that is equal for equal sets.
std::string affinity_text(int& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  cores = 1;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return "unknown";
  cores = std::max(CPU_COUNT(&set), 1);
  std::string text = host_name() + ":";
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) text += fmt::format(" {}", core);
  }
  return text;
}

torch::Device choose_device(const std::string& choice, const MpiSession& session) {
  const std::vector<std::string> known = {"auto", "cpu", "cuda"};
  if (std::find(known.begin(), known.end(), choice) == known.end()) refuse_unknown("device", choice, known);
  const bool present = kernels::cuda_available();
  require(choice != "cuda" || present,
          "--device cuda: this build has no CUDA kernels or finds no CUDA device here; "
          "see credence doctor");
  if (choice == "cpu" || !present) return torch::kCPU;
  const auto devices = static_cast<int>(torch::cuda::device_count());
  return torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(session.local_rank() % std::max(devices, 1)));
}

/// Of each rank, as NCCL tells devices apart. Collective.
std::vector<RankDevice> devices_of_ranks(torch::Device device, Communicator& control) {
  const std::string mine = device.is_cuda() ? kernels::cuda_identity(device.index()) : std::string();
  std::vector<RankDevice> devices;
  const auto hosts = control.gather_texts(host_name());
  const auto identities = control.gather_texts(mine);
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) devices.push_back({hosts[rank], identities[rank]});
  return devices;
}

/// Decides for all ranks alike.
void choose_nccl(const std::string& choice, Communicator& control, Machine& machine) {
  const std::vector<std::string> known = {"auto", "mpi", "nccl"};
  if (std::find(known.begin(), known.end(), choice) == known.end()) refuse_unknown("backend", choice, known);
  const std::vector<RankDevice> devices = devices_of_ranks(machine.device, control);
  const bool any_cuda =
      std::any_of(devices.begin(), devices.end(), [](const RankDevice& device) { return !device.identity.empty(); });
  require(choice != "nccl" || any_cuda, "--backend nccl needs --device cuda");
  if (choice == "mpi" || !any_cuda) return;
  const std::string obstacle = nccl_available() ? obstacle_to_nccl(devices) : "this build has no NCCL";
  require(choice != "nccl" || obstacle.empty(),
          "--backend nccl: {}; give each rank a CUDA device of its own in a build with NCCL (see credence doctor), or "
          "use --backend mpi",
          obstacle);
  if (devices.size() == 1) return;
  machine.nccl = obstacle.empty();
  machine.instead_of_nccl = obstacle;
}

double timeout_of(const OptionValues& values) {
  const double seconds = values.number("timeout-seconds");
  require(seconds > 0.0, "--timeout-seconds must be positive, not {}", seconds);
  return seconds;
}

}  // namespace

Machine choose_machine(const OptionValues& values, MpiSession& session, Communicator& control) {
  Machine machine;
  int cores = 1;
  const std::string mine = affinity_text(cores);
  const auto masks = control.gather_texts(mine);
  const int sharing = static_cast<int>(std::count(masks.begin(), masks.end(), mine));
  if (values.given("threads")) {
    const std::int64_t threads = values.integer("threads");
    require(threads >= 1 && threads <= 4096, "--threads must be between 1 and 4096, not {}", threads);
    machine.threads = static_cast<int>(threads);
  } else if (const char* variable = std::getenv("OMP_NUM_THREADS"); variable != nullptr && std::atoi(variable) > 0) {
    machine.threads = std::atoi(variable);
  } else {
    machine.threads = std::max(cores / sharing, 1);
  }
  machine.loader_threads = std::clamp(cores / sharing - machine.threads, 1, kMostLoaderThreads);
  machine.spare_core = cores > machine.threads * sharing;
  at::set_num_threads(machine.threads);
  machine.device = choose_device(values.text("device"), session);
  if (machine.device.is_cuda()) {
    // Kernels of this thread that name no device run on the current one.
    c10::impl::getDeviceGuardImpl(machine.device.type())->setDevice(machine.device);
    machine.loader_threads = std::clamp(cores / sharing - 1, 1, kMostLoaderThreads);
  }
  if (values.given("loader-threads")) {
    const std::int64_t threads = values.integer("loader-threads");
    require(threads >= 1 && threads <= 4096, "--loader-threads must be between 1 and 4096, not {}", threads);
    machine.loader_threads = static_cast<int>(threads);
  }
  choose_nccl(values.text("backend"), control, machine);
  return machine;
}

void settle_backend(const OptionValues& values, Machine& machine) {
  if (!machine.nccl || values.text("reduction") != "tree" || values.text("backend") == "nccl") return;
  machine.nccl = false;
  machine.instead_of_nccl = "--reduction tree, whose bits do not depend on the number of ranks, is MPI's";
}

std::unique_ptr<Communicator> make_control_communicator(const OptionValues& values, MpiSession& session) {
  const double timeout_seconds = timeout_of(values);
  if (session.size() == 1) return make_self_communicator();
  return make_mpi_communicator(session, {.order = ReductionOrder::fast, .timeout_seconds = timeout_seconds});
}

std::unique_ptr<Communicator> make_training_communicator(const OptionValues& values, const Machine& machine,
                                                         MpiSession& session) {
  const ReductionOrder order = values.text("reduction") == "tree" ? ReductionOrder::tree : ReductionOrder::fast;
  if (session.size() == 1) return make_self_communicator();
  if (!machine.instead_of_nccl.empty() && session.rank() == 0) {
    log_warning("gradients are exchanged by MPI through host memory, much slower than NCCL: {}",
                machine.instead_of_nccl);
  }
  if (machine.nccl) {
    return make_nccl_communicator(
        session, {.order = order, .timeout_seconds = timeout_of(values), .device = machine.device.index()});
  }
  return make_mpi_communicator(
      session, {.order = order, .timeout_seconds = timeout_of(values), .progress_thread = machine.spare_core});
}

}  // namespace credence
