#include "credence/networks/onednn_products.h"

#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>

namespace credence {
namespace {

class OnednnProducts : public testing::Test {
 protected:
  void SetUp() override {
    use_onednn_for_products();
    torch::manual_seed(1);
  }
};

void expect_close(const torch::Tensor& found, const torch::Tensor& exact) {
  ASSERT_EQ(found.scalar_type(), torch::kFloat32);
  ASSERT_EQ(found.sizes(), exact.sizes());
  const double error = (found.to(torch::kFloat64) - exact).abs().max().item<double>();
  EXPECT_LT(error, 1e-5 * exact.abs().max().item<double>()) << found.sizes();
}

/// The same values, neither rows nor columns contiguous.
torch::Tensor with_gaps(const torch::Tensor& matrix) {
  torch::Tensor wide = torch::randn({matrix.size(0), 2 * matrix.size(1)});
  torch::Tensor view = wide.slice(1, 0, 2 * matrix.size(1), 2);
  view.copy_(matrix);
  return view;
}

TEST_F(OnednnProducts, EqualThoseInDoubleForEveryLayoutAndSize) {
  // Below and above the size from which oneDNN multiplies.
  for (const auto& [m, k, n] : {std::array{3, 5, 7}, {64, 32, 16}, {128, 96, 130}, {1, 1200, 1000}, {1030, 1, 1030}}) {
    const torch::Tensor a = torch::randn({m, k}), b = torch::randn({k, n}), bias = torch::randn({n});
    const torch::Tensor exact = a.to(torch::kFloat64).mm(b.to(torch::kFloat64));
    for (const torch::Tensor& left : {a, a.t().contiguous().t(), with_gaps(a)}) {
      for (const torch::Tensor& right :
           {b, b.t().contiguous().t(), torch::cat({b, b}, 1).narrow(1, n, n), with_gaps(b)}) {
        expect_close(left.mm(right), exact);
        expect_close(torch::addmm(bias, left, right), exact + bias.to(torch::kFloat64));
        expect_close(torch::addmm(bias, left, right, 2.0), exact + 2.0 * bias.to(torch::kFloat64));
        expect_close(torch::addmm(bias, left, right, 1.0, -3.0), -3.0 * exact + bias.to(torch::kFloat64));
        expect_close(torch::addmm(torch::stack({bias, -bias}, 1).select(1, 1), left, right),
                     exact - bias.to(torch::kFloat64));
      }
    }
  }
}

/// How many products of oneDNN `work` calls for on this thread.
int products(const std::function<void()>& work) {
  static thread_local int count;
  count = 0;
  const auto handle = at::addThreadLocalCallback(at::RecordFunctionCallback([](const at::RecordFunction& call) {
                                                   count += std::string(call.name()) == "mkldnn::_linear_pointwise";
                                                   return std::unique_ptr<at::ObserverContext>();
                                                 }).scopes({at::RecordScope::FUNCTION}));
  work();
  at::removeCallback(handle);
  return count;
}

TEST_F(OnednnProducts, AreTakenWhereTheyPay) {
  const torch::Tensor large = torch::randn({128, 128}), small = torch::randn({64, 64});
  EXPECT_EQ(products([&] { large.mm(large); }), 1);
  EXPECT_EQ(products([&] { torch::addmm(large[0], large, large); }), 1);
  torch::nn::Linear layer(128, 128);
  const torch::Tensor x = torch::randn({64, 128});
  EXPECT_EQ(products([&] { layer(torch::cat({x, x})); }), 1);
  EXPECT_EQ(products([&] { small.mm(small); }), 0);
  EXPECT_EQ(products([&] { large.to(torch::kFloat64).mm(large.to(torch::kFloat64)); }), 0);
  at::globalContext().setUserEnabledMkldnn(false);
  EXPECT_EQ(products([&] { large.mm(large); }), 0);
  at::globalContext().setUserEnabledMkldnn(true);
}

TEST(BlasOfLibTorch, SuitsIntelsProcessorsWhereItIsMkl) {
  std::ifstream file("/proc/cpuinfo");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(text.empty());
  EXPECT_EQ(blas_suits_processor(), at::hasMKL() && text.find("GenuineIntel") != std::string::npos);
}

TEST_F(OnednnProducts, TakeAnExpandedGradient) {
  const torch::Tensor a = torch::randn({128, 96}), row = torch::randn({130});
  const torch::Tensor gradient = row.expand({128, 130});
  expect_close(a.t().mm(gradient), a.t().to(torch::kFloat64).mm(gradient.to(torch::kFloat64)));
}

TEST_F(OnednnProducts, OfNothingAreZero) {
  EXPECT_EQ(torch::randn({0, 1200}).mm(torch::randn({1200, 1200})).sizes(), (std::vector<std::int64_t>{0, 1200}));
  EXPECT_TRUE(torch::randn({1100, 0}).mm(torch::randn({0, 1100})).eq(0).all().item<bool>());
}

TEST_F(OnednnProducts, HaveTheGradientsOfALinearLayer) {
  torch::nn::Linear layer(300, 200);
  const torch::Tensor x = torch::randn({64, 300}).set_requires_grad(true);
  torch::nn::Linear exact(300, 200);
  exact->to(torch::kFloat64);
  const torch::Tensor exact_x = x.detach().to(torch::kFloat64).set_requires_grad(true);
  {
    const torch::NoGradGuard no_grad;
    exact->weight.copy_(layer->weight);
    exact->bias.copy_(layer->bias);
  }
  torch::tanh(layer(x)).square().sum().backward();
  torch::tanh(exact(exact_x)).square().sum().backward();
  expect_close(x.grad(), exact_x.grad());
  expect_close(layer->weight.grad(), exact->weight.grad());
  expect_close(layer->bias.grad(), exact->bias.grad());
}

TEST_F(OnednnProducts, RefuseWhatCannotBeMultiplied) {
  EXPECT_THROW(torch::randn({2000, 1200}).mm(torch::randn({1201, 1200})), c10::Error);
  EXPECT_THROW(torch::randn({2000, 1200}).mm(torch::randn({1200, 1200}, torch::kFloat64)), c10::Error);
  EXPECT_THROW(torch::addmm(torch::randn({7}), torch::randn({2000, 1200}), torch::randn({1200, 1200})), c10::Error);
}

TEST_F(OnednnProducts, AreTheSameBitsEveryTimeAndSoAreTheBlas) {
  const torch::Tensor a = torch::randn({128, 784}), b = torch::randn({784, 400});
  for (const bool onednn : {true, false}) {
    at::globalContext().setUserEnabledMkldnn(onednn);
    const torch::Tensor first = a.mm(b), transposed = b.t().mm(a.t());
    for (int time = 0; time < 20; ++time) {
      // Other memory: where it lies must not matter.
      const torch::Tensor gap = torch::empty({1 + 7 * time});
      const auto moved = [&](const torch::Tensor& matrix) {
        return torch::cat({torch::zeros({time}), matrix.flatten()}).narrow(0, time, matrix.numel()).view_as(matrix);
      };
      EXPECT_TRUE(moved(a).mm(b.clone()).equal(first)) << onednn << time;
      EXPECT_TRUE(moved(b).t().mm(moved(a).t()).equal(transposed)) << onednn << time;
    }
  }
  at::globalContext().setUserEnabledMkldnn(true);
}

}  // namespace
}  // namespace credence
