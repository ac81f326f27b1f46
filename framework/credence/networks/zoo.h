#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <string>

#include "credence/data/data_source.h"

namespace credence {

/// A module of the zoo, initialised, for inputs as in `examples` and `outputs` values per example.
///   mlp:W1,W2,...[,relu|tanh][,nobias]   fully connected, inputs flattened; relu by default
///   lenet5       LeCun et al. 1998 with relu and max pooling, 5x5 kernels, 6-16-120-84; images of 28 px and up
///   lenet5-caffe Caffe's variant, 5x5 kernels without padding, 20-50-500; images of 28 px and up
///   resnet20     He et al. 2016, sec. 4.2: 3 stages of 3 blocks, 16-32-64 channels, identity shortcuts; 28 px and up
///   linear[:nobias]                      one affine layer
///   constant                             a bias that ignores the input
///   vae:LATENT[,W1,W2,...|linear]        vae.h; the encoder's hidden widths, 400 by default
///   adaptive-depth:L[,width=W][,prior=uniform|poisson:RATE|geometric:P][,input]    adaptive_depth.h; width 64
///   hierarchical-groups:G,W1,...[,shared=K][,relu|tanh]    hierarchical_groups.h; one shared layer by default
/// `outputs` are those that describe the targets; networks with latent variables add what tells of these.
/// UserError names what is known, or what the network needs where the data do not fit it.
torch::nn::AnyModule build_module(const std::string& spec, const ExampleSpec& examples, std::int64_t outputs,
                                  std::uint64_t seed);

torch::nn::AnyModule make_mlp(const std::string& arguments, const ExampleSpec& examples, std::int64_t outputs,
                              std::uint64_t seed);
torch::nn::AnyModule make_linear(const std::string& arguments, const ExampleSpec& examples, std::int64_t outputs,
                                 std::uint64_t seed);
torch::nn::AnyModule make_constant(const std::string& arguments, const ExampleSpec& examples, std::int64_t outputs,
                                   std::uint64_t seed);
torch::nn::AnyModule make_lenet5(const std::string& arguments, const ExampleSpec& examples, std::int64_t outputs,
                                 std::uint64_t seed);
torch::nn::AnyModule make_lenet5_caffe(const std::string& arguments, const ExampleSpec& examples, std::int64_t outputs,
                                       std::uint64_t seed);
torch::nn::AnyModule make_resnet20(const std::string& arguments, const ExampleSpec& examples, std::int64_t outputs,
                                   std::uint64_t seed);
torch::nn::AnyModule make_vae(const std::string& arguments, const ExampleSpec& examples, std::int64_t outputs,
                              std::uint64_t seed);
torch::nn::AnyModule make_adaptive_depth(const std::string& arguments, const ExampleSpec& examples,
                                         std::int64_t outputs, std::uint64_t seed);
torch::nn::AnyModule make_hierarchical_groups(const std::string& arguments, const ExampleSpec& examples,
                                              std::int64_t outputs, std::uint64_t seed);

/// UserError unless inputs are [channels, height, width] of at least `pixels` each way.
void require_images(const std::string& network, const ExampleSpec& examples, std::int64_t pixels);

}  // namespace credence
