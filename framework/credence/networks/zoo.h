#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <optional>
#include <string>

#include "credence/data/data_source.h"
#include "credence/networks/norm.h"

namespace credence {

/// What a module of the zoo is made of.
struct ModuleRequest {
  std::string arguments;  // of its spec
  const ExampleSpec& examples;
  std::int64_t outputs = 0;  // values per example
  std::uint64_t seed = 0;
  std::optional<Norm> norm = std::nullopt;  // none: the network's own
};

/// A network by its spec, and what may be chosen beside it.
struct NetworkChoice {
  std::string spec;
  std::string norm;  // as of parse_norm()
};

/// A module of the zoo, initialised, for inputs as in `examples` and `outputs` values per example.
///   mlp:W1,W2,...[,relu|tanh][,nobias]   fully connected, inputs flattened; relu by default
///   lenet5       LeCun et al. 1998 with relu and max pooling, 5x5 kernels, 6-16-120-84; images of 28 px and up
///   lenet5-caffe Caffe's variant, 5x5 kernels without padding, 20-50-500; images of 28 px and up
///   resnet20     He et al. 2016, sec. 4.2: 3 stages of 3 blocks, 16-32-64 channels, identity shortcuts; 28 px and up
///   resnet18|34|50|101|152[:cifar][,unit-scale]   He et al. 2016, sec. 4.1, parameters named and numbers equal as in
///                torchvision. cifar: a 3x3 stem without stride and pooling, for images of 32 px. The last norm scale
///                of each block begins with 0 (Goyal et al. 2017), with 1 by unit-scale
///   wide-resnet:DEPTH,WIDTH   Zagoruyko and Komodakis 2016: 28,10 for images of 32 px
///   vit:PATCH,DEPTH,WIDTH,HEADS   Dosovitskiy et al. 2021, names and numbers as in torchvision; 4,6,192,3 for 32 px
///   torchscript:FILE   torchscript.h; its values are the initial weights
///   linear[:nobias]                      one affine layer
///   constant                             a bias that ignores the input
///   vae:LATENT[,W1,W2,...|linear]        vae.h; the encoder's hidden widths, 400 by default
///   adaptive-depth:L[,width=W][,prior=uniform|poisson:RATE|geometric:P][,input]    adaptive_depth.h; width 64
///   hierarchical-groups:G,W1,...[,shared=K][,relu|tanh]    hierarchical_groups.h; one shared layer by default
/// `outputs` are those that describe the targets; networks with latent variables add what tells of these.
/// UserError names what is known, or what the network needs where the data do not fit it, or refuses a norm where the
/// network has no such layers.
torch::nn::AnyModule build_module(const NetworkChoice& network, const ExampleSpec& examples, std::int64_t outputs,
                                  std::uint64_t seed);
/// The same with the network's own norm.
torch::nn::AnyModule build_module(const std::string& spec, const ExampleSpec& examples, std::int64_t outputs,
                                  std::uint64_t seed);

torch::nn::AnyModule make_mlp(const ModuleRequest& request);
torch::nn::AnyModule make_linear(const ModuleRequest& request);
torch::nn::AnyModule make_constant(const ModuleRequest& request);
torch::nn::AnyModule make_lenet5(const ModuleRequest& request);
torch::nn::AnyModule make_lenet5_caffe(const ModuleRequest& request);
torch::nn::AnyModule make_resnet20(const ModuleRequest& request);
torch::nn::AnyModule make_resnet18(const ModuleRequest& request);
torch::nn::AnyModule make_resnet34(const ModuleRequest& request);
torch::nn::AnyModule make_resnet50(const ModuleRequest& request);
torch::nn::AnyModule make_resnet101(const ModuleRequest& request);
torch::nn::AnyModule make_resnet152(const ModuleRequest& request);
torch::nn::AnyModule make_wide_resnet(const ModuleRequest& request);
torch::nn::AnyModule make_vit(const ModuleRequest& request);
torch::nn::AnyModule make_torchscript(const ModuleRequest& request);
torch::nn::AnyModule make_vae(const ModuleRequest& request);
torch::nn::AnyModule make_adaptive_depth(const ModuleRequest& request);
torch::nn::AnyModule make_hierarchical_groups(const ModuleRequest& request);

/// UserError unless inputs are [channels, height, width] of at least `pixels` each way.
void require_images(const std::string& network, const ExampleSpec& examples, std::int64_t pixels);

}  // namespace credence
