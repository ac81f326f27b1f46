#pragma once

namespace credence {

/// Whether LibTorch's BLAS is tuned for this processor: MKL on one of Intel's. It multiplies as fast as oneDNN there,
/// and takes transposed matrices as they are.
bool blas_suits_processor();

/// From the first call on, matrix products of this process (mm and addmm: linear layers, forward and backward) in
/// float32 on a CPU are oneDNN's, where they are large enough to repay the call: it uses AVX-512 on every processor
/// that has it, where the BLAS in LibTorch's wheels takes twice as long on other processors than Intel's. Which library
/// multiplies depends on the shapes only. Does nothing where LibTorch lacks oneDNN.
void use_onednn_for_products();

}  // namespace credence
