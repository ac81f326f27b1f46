#include "credence/communication/factory.h"

namespace credence {

std::unique_ptr<Communicator> make_nccl_communicator(MpiSession&, const NcclOptions&) {
  throw UserError("this build has no NCCL: use --backend mpi, or build on a machine with the CUDA toolkit and NCCL");
}

bool nccl_available() noexcept {
  return false;
}

std::string nccl_version() {
  return "not in this build";
}

}  // namespace credence
