#include "credence/networks/onednn_products.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/mm_cpu_dispatch.h>
#include <c10/util/Exception.h>
#include <torch/library.h>
#include <torch/torch.h>

#include <cstdint>
#include <optional>

namespace credence {
namespace {

// Multiplications below which the call costs more than a faster product saves.
constexpr std::int64_t kLeast = std::int64_t{1} << 20;

/// a [m, k], b [n, k], bias [n]: a b^T + bias.
using Product = torch::Tensor(const torch::Tensor& a, const torch::Tensor& b, const std::optional<torch::Tensor>& bias,
                              c10::string_view attribute, c10::List<std::optional<at::Scalar>> scalars,
                              std::optional<c10::string_view> algorithm);

/// Empty where LibTorch has no such operator, or another one of that name.
const std::optional<c10::TypedOperatorHandle<Product>>& product() {
  static const auto found = []() -> std::optional<c10::TypedOperatorHandle<Product>> {
    const auto handle = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!handle || !at::hasMKLDNN()) return std::nullopt;
    try {
      return handle->typed<Product>();
    } catch (const c10::Error&) {
      return std::nullopt;
    }
  }();
  return found;
}

bool suits(const torch::Tensor& tensor) {
  return tensor.scalar_type() == torch::kFloat32 && tensor.layout() == torch::kStrided && !tensor.is_neg();
}

bool suit(const torch::Tensor& a, const torch::Tensor& b) {
  return a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) && a.numel() * b.size(1) >= kLeast && suits(a) &&
         suits(b) && at::globalContext().userEnabledMkldnn();
}

torch::Tensor multiply(const torch::Tensor& a, const torch::Tensor& b, const std::optional<torch::Tensor>& bias) {
  return product()->call(a, b.t(), bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

torch::Tensor mm(const torch::Tensor& a, const torch::Tensor& b) {
  return suit(a, b) ? multiply(a, b, std::nullopt) : at::cpu::mm(a, b);
}

torch::Tensor addmm(const torch::Tensor& bias, const torch::Tensor& a, const torch::Tensor& b, const at::Scalar& beta,
                    const at::Scalar& alpha) {
  const bool plain =
      bias.dim() == 1 && b.dim() == 2 && bias.size(0) == b.size(1) && suits(bias) && beta.equal(1) && alpha.equal(1);
  return plain && suit(a, b) ? multiply(a, b, bias.contiguous()) : at::cpu::addmm(bias, a, b, beta, alpha);
}

struct Silent : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

}  // namespace

bool blas_suits_processor() {
#if defined(__x86_64__)
  return at::hasMKL() && __builtin_cpu_is("intel") != 0;
#else
  return false;
#endif
}

void use_onednn_for_products() {
  if (!product()) return;
  static const torch::Library library = [] {
    Silent silent;  // about the kernels of LibTorch that these stand in for
    const c10::WarningUtils::WarningHandlerGuard guard(&silent);
    torch::Library kernels(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__);
    kernels.impl("mm", TORCH_FN(mm));
    kernels.impl("addmm", TORCH_FN(addmm));
    return kernels;
  }();
}

}  // namespace credence
