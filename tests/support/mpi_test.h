#pragma once

#include "credence/communication/mpi_session.h"

namespace credence::testing {

/// The session of a test program under mpirun (support/mpi_main.cpp).
MpiSession& mpi_session();

}  // namespace credence::testing
