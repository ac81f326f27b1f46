# shellcheck shell=bash
# Environment of a training run, with reasons. Sourced by launchers/mpirun and launchers/srun, which the batch scripts use; a
# value that is already set stays. CREDENCE_ENVIRONMENT names what mpirun passes on to other hosts.

# Checkpoints are written by one process into a file of its own and published by rename, and the run directory has its own
# lock: HDF5's lock adds nothing, and fails on NFS and on some Lustre mounts.
export HDF5_USE_FILE_LOCKING=${HDF5_USE_FILE_LOCKING:-FALSE}

# cuBLAS keeps its bits from run to run only with workspaces of fixed size.
export CUBLAS_WORKSPACE_CONFIG=${CUBLAS_WORKSPACE_CONFIG:-:4096:8}

# GPUs numbered as nvidia-smi shows them; the default order is by speed and differs between like hosts.
export CUDA_DEVICE_ORDER=${CUDA_DEVICE_ORDER:-PCI_BUS_ID}

# NCCL says what went wrong (which peer, which interface) and nothing else.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}

# shellcheck disable=SC2034  # read by launchers/mpirun
CREDENCE_ENVIRONMENT=(HDF5_USE_FILE_LOCKING CUBLAS_WORKSPACE_CONFIG CUDA_DEVICE_ORDER NCCL_DEBUG)

# For a variable of your own, set it here and add it to the list. Worth knowing, and not set because the right value is
# the cluster's:
#   NCCL_SOCKET_IFNAME=eth0            where NCCL picks a network that the other hosts cannot reach
#   NCCL_IB_DISABLE=1                  where InfiniBand is present and broken
#   OMPI_MCA_btl_tcp_if_include=eth0   the same for Open MPI; docker0 and virbr0 are the usual traps
#   OMPI_MCA_btl_vader_single_copy_mechanism=none
#                                      in containers without the right to read another process's memory (Open MPI says
#                                      "Read -1, expected ..., errno = 1"): large messages are then copied twice
# Not set on purpose:
#   OMP_PROC_BIND, GOMP_CPU_AFFINITY   ranks are bound by the launcher; where they share processors unbound, pinned
#                                      threads of two ranks would sit on the same ones
#   OMP_NUM_THREADS                    the launchers compute it from processors and ranks
