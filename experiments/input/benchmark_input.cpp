// Images/s of one thread: libjpeg-turbo alone on the crops that training decodes, and what the framework makes of them.
//   benchmark_input FOLDER [PACKED FILE]     FOLDER holds one folder of JPEGs a class
#include <fmt/core.h>

#include <cstdio>
// jpeglib.h needs stdio.h before it.
#include <jpeglib.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "credence/data/image_augmentation.h"
#include "credence/data/image_source.h"
#include "credence/data/loader.h"
#include "credence/data/open.h"

namespace {

using namespace credence;

constexpr std::int64_t kSize = 224;
constexpr std::uint64_t kSeed = 1;
constexpr double kSeconds = 1.5;  // of a measurement
constexpr int kRounds = 5;

using Bytes = std::vector<std::uint8_t>;

struct Crop {
  Box box;
  int eighths;
};

Crop crop_of(const jpeg_decompress_struct& info, std::int64_t epoch, std::int64_t example) {
  const ImageSize size{info.image_height, info.image_width};
  Crop crop{draw_resized_crop({}, ExampleNoise(kSeed, epoch, example), size), 1};
  while (crop.eighths < 8 && std::min(crop.box.height, crop.box.width) * crop.eighths < 8 * kSize) crop.eighths *= 2;
  return crop;
}

/// What cannot be left out: the header, the scaled rows and columns of the crop, nothing done with the pixels.
void decode_bare(jpeg_decompress_struct& info, const Bytes& file, std::int64_t epoch, std::int64_t example,
                 Bytes& row) {
  jpeg_mem_src(&info, file.data(), file.size());
  jpeg_read_header(&info, TRUE);
  const auto [box, eighths] = crop_of(info, epoch, example);
  info.scale_num = static_cast<unsigned>(eighths);
  info.scale_denom = 8;
  info.do_fancy_upsampling = FALSE;
  info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_EXT_RGBX;
  jpeg_start_decompress(&info);
  auto left = static_cast<JDIMENSION>(box.left * eighths / 8);
  auto width = static_cast<JDIMENSION>((box.width * eighths + 7) / 8);
  width = std::min(width, info.output_width - left);
  if (width < info.output_width) jpeg_crop_scanline(&info, &left, &width);
  const auto top = static_cast<JDIMENSION>(box.top * eighths / 8);
  const auto bottom = std::min(static_cast<JDIMENSION>(((box.top + box.height) * eighths + 7) / 8), info.output_height);
  if (top > 0) jpeg_skip_scanlines(&info, top);
  row.resize(static_cast<std::size_t>(4) * info.output_width * 4 + 64);
  while (info.output_scanline < bottom) {
    JSAMPROW rows[4];
    for (std::size_t i = 0; i < 4; ++i) rows[i] = row.data() + i * 4 * width;
    jpeg_read_scanlines(&info, rows, std::min<JDIMENSION>(4, bottom - info.output_scanline));
  }
  jpeg_abort_decompress(&info);
}

struct Measurement {
  const char* name;
  std::function<void(std::int64_t epoch)> pass;  // over all images
  std::vector<double> rates = {};
};

/// Processor time of all threads: what other programs on the machine do not disturb.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void run(const std::string& folder, const std::string& packed) {
  const auto source = open_data("images:" + folder, Split::train, {.image_size = "224"});
  const ImageSource& images = *source->as_images();
  const std::int64_t count = source->size();
  std::vector<Bytes> files(static_cast<std::size_t>(count));
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    images.store().read(i, files[static_cast<std::size_t>(i)]);
    bytes += static_cast<std::int64_t>(files[static_cast<std::size_t>(i)].size());
  }
  fmt::print("{} images, {:.0f} KB each, crops to {} x {}, one thread\n", count,
             1e-3 * static_cast<double>(bytes) / static_cast<double>(count), kSize, kSize);

  jpeg_error_mgr error{};
  jpeg_decompress_struct info{};
  info.err = jpeg_std_error(&error);
  jpeg_create_decompress(&info);
  Bytes row;
  Batch batch;
  SamplingPlan::Selection selection;
  for (std::int64_t i = 0; i < count; ++i) selection.examples.push_back(i);
  const auto augmented = [&](const Augmentation& augmentation, std::int64_t epoch) {
    selection.epochs.assign(static_cast<std::size_t>(count), epoch);
    images.prepare(count, batch);
    images.read_rows(selection, {augmentation, kSeed}, 0, count, batch);
  };
  const Augmentation plain = Augmentation::parse("resized-crop,flip");
  const Augmentation jittered = Augmentation::parse("resized-crop,flip,jitter:0.4");
  const Augmentation none = Augmentation::parse("none");
  std::vector<float> numbers(static_cast<std::size_t>(source->spec().input_elements() * count));

  std::vector<Measurement> all;
  all.push_back({"libjpeg-turbo alone, the same crops", [&](std::int64_t epoch) {
                   for (std::int64_t i = 0; i < count; ++i)
                     decode_bare(info, files[static_cast<std::size_t>(i)], epoch, i, row);
                 }});
  all.push_back({"resized-crop,flip", [&](std::int64_t epoch) { augmented(plain, epoch); }});
  all.push_back({"resized-crop,flip, normalised", [&](std::int64_t epoch) {
                   augmented(plain, epoch);
                   normalize(source->spec(), batch, numbers.data());
                 }});
  all.push_back({"resized-crop,flip,jitter:0.4", [&](std::int64_t epoch) { augmented(jittered, epoch); }});
  all.push_back({"none (evaluation: the middle)", [&](std::int64_t epoch) { augmented(none, epoch); }});
  std::unique_ptr<DataSource> pack;
  if (!packed.empty()) {
    pack = open_data("pack:" + packed, Split::train, {.image_size = "224"});
    all.push_back({"resized-crop,flip of the pack, through the loader", [&](std::int64_t epoch) {
                     const SamplingPlan plan(kSeed, count, 50, 1);
                     Loader loader(*pack, plan, {.first_step = epoch * (count / 50), .augmentation = plain});
                     for (std::int64_t i = 0; i < count / 50; ++i) loader.next();
                   }});
  }
  // In turn, so that whatever else the machine does meets all alike.
  for (int round = 0; round < kRounds; ++round)
    for (Measurement& measurement : all) {
      const double begin = processor_seconds();
      std::int64_t epochs = 0;
      for (; processor_seconds() - begin < kSeconds; ++epochs) measurement.pass(epochs);
      measurement.rates.push_back(static_cast<double>(epochs * count) / (processor_seconds() - begin));
    }
  jpeg_destroy_decompress(&info);
  const double bare = median(all.front().rates);
  for (const Measurement& measurement : all)
    fmt::print("{:<52} {:>7.0f} images/s  {:>5.1f} %\n", measurement.name, median(measurement.rates),
               100.0 * median(measurement.rates) / bare);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: benchmark_input FOLDER [PACKED FILE]\n");
    return 2;
  }
  try {
    run(argv[1], argc > 2 ? argv[2] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
