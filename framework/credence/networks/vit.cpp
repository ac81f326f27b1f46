#include <cmath>

#include "credence/base/errors.h"
#include "credence/base/text.h"
#include "credence/networks/initialization.h"
#include "credence/networks/layers.h"
#include "credence/networks/zoo.h"

// The vision transformer of Dosovitskiy et al. 2021 with the names and the numbers of torchvision's.

namespace credence {
namespace {

constexpr double kNormEpsilon = 1e-6;
constexpr double kPositionDeviation = 0.02;
constexpr std::int64_t kMlpFactor = 4;
constexpr bool kOfTokens = true;

struct Sizes {
  std::int64_t patch = 0;  // pixels
  std::int64_t depth = 0;
  std::int64_t width = 0;
  std::int64_t heads = 0;
};

torch::nn::LayerNorm layer_norm(std::int64_t width) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({width}).eps(kNormEpsilon));
}

struct SelfAttentionImpl : torch::nn::Module {
  SelfAttentionImpl(std::int64_t width, std::int64_t heads) : heads_(heads) {
    in_proj_weight = register_parameter("in_proj_weight", torch::zeros({3 * width, width}));
    in_proj_bias = register_parameter("in_proj_bias", torch::zeros({3 * width}));
    out_proj = register_module("out_proj", Linear(torch::nn::LinearOptions(width, width), kOfTokens));
  }

  torch::Tensor forward(const torch::Tensor& x) {  // [B, N, W]
    const std::int64_t batch = x.size(0), tokens = x.size(1), width = x.size(2);
    const auto parts = torch::nn::functional::linear(x, in_proj_weight, in_proj_bias)
                           .view({batch, tokens, 3, heads_, width / heads_})
                           .permute({2, 0, 3, 1, 4})  // [3, B, heads, N, W / heads]
                           .unbind(0);
    const torch::Tensor mixed = torch::scaled_dot_product_attention(parts[0], parts[1], parts[2]);
    return out_proj(mixed.transpose(1, 2).reshape({batch, tokens, width}));
  }

  std::int64_t heads_;
  torch::Tensor in_proj_weight, in_proj_bias;
  Linear out_proj{nullptr};
};
TORCH_MODULE(SelfAttention);

/// Children 0 and 3, as in torchvision, where 1, 2 and 4 have no parameters.
struct MlpBlockImpl : torch::nn::Module {
  explicit MlpBlockImpl(std::int64_t width) {
    first = register_module("0", Linear(torch::nn::LinearOptions(width, kMlpFactor * width), kOfTokens));
    second = register_module("3", Linear(torch::nn::LinearOptions(kMlpFactor * width, width), kOfTokens));
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::gelu(first(x))); }
  Linear first{nullptr}, second{nullptr};
};
TORCH_MODULE(MlpBlock);

struct EncoderLayerImpl : torch::nn::Module {
  explicit EncoderLayerImpl(const Sizes& sizes) {
    ln_1 = register_module("ln_1", layer_norm(sizes.width));
    self_attention = register_module("self_attention", SelfAttention(sizes.width, sizes.heads));
    ln_2 = register_module("ln_2", layer_norm(sizes.width));
    mlp = register_module("mlp", MlpBlock(sizes.width));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const torch::Tensor y = x + self_attention(ln_1(x));
    return y + mlp(ln_2(y));
  }
  torch::nn::LayerNorm ln_1{nullptr}, ln_2{nullptr};
  SelfAttention self_attention{nullptr};
  MlpBlock mlp{nullptr};
};
TORCH_MODULE(EncoderLayer);

struct EncoderImpl : torch::nn::Module {
  EncoderImpl(const Sizes& sizes, std::int64_t tokens) {
    pos_embedding = register_parameter("pos_embedding", torch::zeros({1, tokens, sizes.width}));
    for (std::int64_t i = 0; i < sizes.depth; ++i) {
      layers->push_back("encoder_layer_" + std::to_string(i), EncoderLayer(sizes));
    }
    register_module("layers", layers);
    ln = register_module("ln", layer_norm(sizes.width));
  }
  torch::Tensor forward(const torch::Tensor& x) { return ln(layers->forward(x + pos_embedding)); }
  torch::Tensor pos_embedding;
  torch::nn::Sequential layers;
  torch::nn::LayerNorm ln{nullptr};
};
TORCH_MODULE(Encoder);

struct HeadsImpl : torch::nn::Module {
  HeadsImpl(std::int64_t width, std::int64_t outputs) {
    head = register_module("head", Linear(torch::nn::LinearOptions(width, outputs)));
  }
  torch::Tensor forward(const torch::Tensor& x) { return head(x); }
  Linear head{nullptr};
};
TORCH_MODULE(Heads);

struct VisionTransformerImpl : torch::nn::Module {
  VisionTransformerImpl(const Sizes& sizes, const ModuleRequest& request) {
    const auto& shape = request.examples.input_shape;
    class_token = register_parameter("class_token", torch::zeros({1, 1, sizes.width}));
    conv_proj = register_module(
        "conv_proj", Conv2d(torch::nn::Conv2dOptions(shape[0], sizes.width, sizes.patch).stride(sizes.patch)));
    encoder = register_module("encoder", Encoder(sizes, 1 + (shape[1] / sizes.patch) * (shape[2] / sizes.patch)));
    heads = register_module("heads", Heads(sizes.width, request.outputs));
  }

  torch::Tensor forward(const torch::Tensor& images) {                           // [B, C, H, W]
    const torch::Tensor patches = conv_proj(images).flatten(2).transpose(1, 2);  // [B, N, width]
    const torch::Tensor tokens = torch::cat({class_token.expand({images.size(0), -1, -1}), patches}, 1);
    return heads(encoder(tokens).select(1, 0));
  }

  void initialize_weights(std::uint64_t seed) {
    initialize(*this, Nonlinearity::relu, seed);
    const torch::NoGradGuard no_grad;
    class_token.zero_();
    encoder->pos_embedding.mul_(kPositionDeviation / encoder->pos_embedding.std());
  }

  torch::Tensor class_token;
  Conv2d conv_proj{nullptr};
  Encoder encoder{nullptr};
  Heads heads{nullptr};
};
TORCH_MODULE(VisionTransformer);

Sizes parse_sizes(const std::string& arguments) {
  const std::vector<std::string> parts = split(arguments, ',');
  require(parts.size() == 4, "vit needs patch size, depth, width and heads, as in vit:4,6,192,3, not '{}'", arguments);
  const auto in_range = [](const std::string& text, const char* what, std::int64_t most) {
    const std::int64_t value = parse_integer(text, what);
    require(value >= 1 && value <= most, "{} must be between 1 and {}, not {}", what, most, text);
    return value;
  };
  const Sizes sizes{.patch = in_range(parts[0], "the patch size in vit:PATCH,DEPTH,WIDTH,HEADS", 1024),
                    .depth = in_range(parts[1], "the depth in vit:PATCH,DEPTH,WIDTH,HEADS", 1000),
                    .width = in_range(parts[2], "the width in vit:PATCH,DEPTH,WIDTH,HEADS", 65536),
                    .heads = in_range(parts[3], "the number of heads in vit:PATCH,DEPTH,WIDTH,HEADS", 1024)};
  require(sizes.width % sizes.heads == 0, "the width of vit:{} must be a multiple of its {} heads", arguments,
          sizes.heads);
  return sizes;
}

}  // namespace

torch::nn::AnyModule make_vit(const ModuleRequest& request) {
  const Sizes sizes = parse_sizes(request.arguments);
  require_images("vit", request.examples, sizes.patch);
  const auto& shape = request.examples.input_shape;
  require(shape[1] % sizes.patch == 0 && shape[2] % sizes.patch == 0,
          "vit:{} cuts images into patches of {} pixels, and these have {} by {}; use a patch size that divides both",
          request.arguments, sizes.patch, shape[1], shape[2]);
  VisionTransformer network(sizes, request);
  network->initialize_weights(request.seed);
  return torch::nn::AnyModule(network);
}

}  // namespace credence
