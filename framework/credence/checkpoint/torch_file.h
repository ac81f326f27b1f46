#pragma once

#include <filesystem>
#include <memory>

#include "credence/checkpoint/state_dict.h"

namespace credence::checkpoints {

/// What torch.save makes of a state dict: a zip archive, or before PyTorch 1.6 pickles followed by the storages.
std::unique_ptr<StateDict> open_torch_archive(const std::filesystem::path& file);
std::unique_ptr<StateDict> open_legacy_torch_file(const std::filesystem::path& file);

}  // namespace credence::checkpoints
