#include <credence/networks/network.h>

#include <cstdio>

/// An ordinary LibTorch module: nothing in it knows of Credence.
struct TwoLayers : torch::nn::Module {
  torch::nn::Linear first = register_module("first", torch::nn::Linear(3, 4));
  torch::nn::Linear second = register_module("second", torch::nn::Linear(torch::nn::LinearOptions(4, 2).bias(false)));

  torch::Tensor forward(torch::Tensor x) { return second(torch::tanh(first(x))); }
};

int main() {
  credence::Network network(torch::nn::AnyModule(std::make_shared<TwoLayers>()));
  network.bind(network.values());
  std::printf("%lld parameters\n", static_cast<long long>(network.layout().parameters()));
}
