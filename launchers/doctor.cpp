#include <hdf5.h>
#include <sched.h>
#include <torch/version.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <thread>

#include "assembly.h"
#include "command_line.h"
#include "commands.h"
#include "credence/base/log.h"
#include "credence/base/stopwatch.h"

namespace credence {
namespace {

const std::vector<CommandOption>& doctor_extras() {
  static const std::vector<CommandOption> extras = {{"json", "the findings as one JSON object", true},
                                                    {"help", "this text", true}};
  return extras;
}

/// One line of the report.
struct Finding {
  std::string subject;
  bool good = true;
  std::string detail;
};

constexpr const char* kTimed = "all-reduce";  // its detail is a time, which differs between ranks

/// The SIMD kernels against the plain ones on one draw and one update: equal bits.
Finding check_kernels(int threads) {
  constexpr std::int64_t kCount = 5000;
  constexpr std::int64_t kPadded = 5056;
  const std::array segments = {kernels::Segment{.offset = 0, .count = kCount, .prior_scale = 1.0}};
  const kernels::NoiseStream noise{.seed = 7, .step = 3};
  const auto run = [&](kernels::KernelSet<float>& set) {
    std::array<std::vector<float>, 7> arrays;
    for (auto& array : arrays) array.assign(kPadded, 0.0F);
    auto& [mean, raw_scale, m1, m2, s1, s2, gradient] = arrays;
    for (std::int64_t i = 0; i < kCount; ++i) {
      mean[static_cast<std::size_t>(i)] = static_cast<float>(i % 13) * 0.1F - 0.6F;
      raw_scale[static_cast<std::size_t>(i)] = -5.0F + static_cast<float>(i % 7) * 0.3F;
      gradient[static_cast<std::size_t>(i)] = static_cast<float>(i % 5) * 0.01F - 0.02F;
    }
    std::vector<float> weights(kPadded, 0.0F);
    const std::array<const float*, 1> gradients = {gradient.data()};
    kernels::UpdateRule rule;
    rule.learning_rate = rule.scale_learning_rate = 1e-3;
    rule.cross_entropy_weight = rule.entropy_weight = 1e-4;
    set.update(segments, rule,
               {.mean = mean.data(),
                .raw_scale = raw_scale.data(),
                .mean_first = m1.data(),
                .mean_second = m2.data(),
                .scale_first = s1.data(),
                .scale_second = s2.data(),
                .gradients = gradients,
                .noise = &noise});
    set.draw(segments, mean.data(), raw_scale.data(), noise, weights.data());
    return weights;
  };
  const auto expected = run(*kernels::reference_kernels<float>(1));
  const auto simd = kernels::simd_kernels<float>(threads);
  const auto actual = run(*simd);
  const bool equal = std::memcmp(expected.data(), actual.data(), kCount * sizeof(float)) == 0;
  return {"kernels", equal, fmt::format("{} and plain C++ {}", simd->name(), equal ? "give the same bits" : "DIFFER")};
}

Finding check_collective(Communicator& control) {
  std::vector<double> values(1000, static_cast<double>(control.rank() + 1));
  const Stopwatch watch;
  control
      .all_reduce({values.data(), static_cast<std::int64_t>(values.size()), DType::float64, Device::cpu},
                  Reduction::sum)
      .wait();
  const double expected = 0.5 * control.size() * (control.size() + 1);
  const bool good = values.front() == expected && values.back() == expected;
  return {
      kTimed, good,
      fmt::format("over {} rank{}, {:.2f} ms", control.size(), control.size() == 1 ? "" : "s", 1e3 * watch.seconds())};
}

Finding check_directory() {
  std::error_code error;
  const auto space = std::filesystem::space(".", error);
  if (error) return {"directory", false, error.message()};
  return {"directory", true, fmt::format("{:.1f} GB free here", static_cast<double>(space.available) * 1e-9)};
}

std::string hdf5_version() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

/// Rank 0's findings by subject, each with those of the ranks where it is another. Collective.
nlohmann::json report_of(const std::vector<Finding>& findings, Communicator& control) {
  nlohmann::json mine;
  for (const Finding& finding : findings) mine[finding.subject] = {{"good", finding.good}, {"detail", finding.detail}};
  const std::vector<std::string> all = control.gather_texts(to_text(mine));
  nlohmann::json report = nlohmann::json::parse(all[0]);
  for (std::size_t rank = 1; rank < all.size(); ++rank) {
    const nlohmann::json theirs = nlohmann::json::parse(all[rank]);
    for (auto& [subject, finding] : report.items()) {
      const nlohmann::json& other = theirs.at(subject);
      const bool same = other["good"] == finding["good"] && (subject == kTimed || other["detail"] == finding["detail"]);
      if (!same) finding["ranks"][std::to_string(rank)] = other;
    }
  }
  return report;
}

void print(const std::vector<Finding>& findings, const nlohmann::json& report) {
  for (const Finding& finding : findings) {
    fmt::print("{:<11} {:<4} {}\n", finding.subject, finding.good ? "ok" : "BAD", finding.detail);
    const nlohmann::json others = report[finding.subject].value("ranks", nlohmann::json::object());
    for (const auto& [rank, other] : others.items()) {
      fmt::print("{:<11} {:<4} on rank {}: {}\n", "", other["good"].get<bool>() ? "ok" : "BAD", rank,
                 other["detail"].get<std::string>());
    }
  }
}

}  // namespace

int run_doctor(const CommandContext& context) {
  const CommandLine line = parse_command_line(context.arguments, doctor_extras(), {});
  if (line.help) {
    print_help(context.session, "credence doctor [options]\n\n" + describe_options(doctor_extras(), {}));
    return 0;
  }
  const auto control = make_control_communicator({}, context.session);
  const Machine machine = choose_machine({}, context.session, *control);
  std::vector<Finding> findings;
  findings.push_back({"host", true,
                      fmt::format("{}, {} processors, {} threads for this rank", host_name(),
                                  std::thread::hardware_concurrency(), machine.threads)});
  findings.push_back({"LibTorch", true, TORCH_VERSION});
  findings.push_back({"HDF5", true, hdf5_version()});
  findings.push_back({"MPI", true, context.session.library_version()});
  findings.push_back({"NCCL", true, nccl_version()});
  findings.push_back({"CUDA", true,
                      kernels::cuda_available() ? fmt::format("{} device(s)", torch::cuda::device_count())
                                                : "no device, or a build without CUDA kernels"});
  findings.push_back(check_kernels(machine.threads));
  findings.push_back(check_collective(*control));
  findings.push_back(check_directory());

  const nlohmann::json report = report_of(findings, *control);
  if (line.has("json")) print_json(context.session, report);
  if (!line.has("json") && context.session.rank() == 0) print(findings, report);
  const bool good = std::all_of(findings.begin(), findings.end(), [](const Finding& finding) { return finding.good; });
  return static_cast<int>(control->any(!good) ? ExitCode::internal : ExitCode::done);
}

}  // namespace credence
