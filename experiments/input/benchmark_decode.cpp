// Images/s of several threads that decode with libjpeg-turbo alone, pixels thrown away, what `credence pack` decodes:
//   benchmark_decode FOLDER THREADS SHORT_SIDE SECONDS
// Whole images at the smallest scale (an eighth, a quarter, a half, all) that leaves SHORT_SIDE pixels; 0: an eighth.
#include <fmt/core.h>

#include <cstdio>
// jpeglib.h needs stdio.h before it.
#include <jpeglib.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "credence/base/stopwatch.h"
#include "credence/data/open.h"

namespace {

using namespace credence;
using Bytes = std::vector<std::uint8_t>;

void decode(jpeg_decompress_struct& info, const Bytes& file, std::int64_t short_side, Bytes& row) {
  jpeg_mem_src(&info, file.data(), file.size());
  jpeg_read_header(&info, TRUE);
  const auto side = static_cast<std::int64_t>(std::min(info.image_height, info.image_width));
  unsigned eighths = 1;
  while (eighths < 8 && side * eighths < 8 * short_side) eighths *= 2;
  info.scale_num = eighths;
  info.scale_denom = 8;
  info.do_fancy_upsampling = FALSE;
  info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_EXT_RGBX;
  jpeg_start_decompress(&info);
  row.resize(static_cast<std::size_t>(4) * info.output_width * 4 + 64);
  while (info.output_scanline < info.output_height) {
    JSAMPROW rows[4];
    for (std::size_t i = 0; i < 4; ++i) rows[i] = row.data() + i * 4 * info.output_width;
    jpeg_read_scanlines(&info, rows, 4);
  }
  jpeg_finish_decompress(&info);
}

double rate(const std::vector<Bytes>& files, int threads, std::int64_t short_side, double seconds) {
  std::atomic<std::size_t> next = 0;
  std::atomic<std::int64_t> done = 0;
  const Stopwatch watch;
  const auto work = [&] {
    jpeg_error_mgr error{};
    jpeg_decompress_struct info{};
    info.err = jpeg_std_error(&error);
    jpeg_create_decompress(&info);
    for (Bytes row; watch.seconds() < seconds; ++done) decode(info, files[next++ % files.size()], short_side, row);
    jpeg_destroy_decompress(&info);
  };
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i) all.emplace_back(work);
  for (std::thread& thread : all) thread.join();
  return static_cast<double>(done) / watch.seconds();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    fmt::print(stderr, "usage: benchmark_decode FOLDER THREADS SHORT_SIDE SECONDS\n");
    return 2;
  }
  try {
    const auto store = open_store("images:" + std::string(argv[1]), Split::train);
    std::vector<Bytes> files(static_cast<std::size_t>(store->size()));
    for (std::size_t i = 0; i < files.size(); ++i) store->read(static_cast<std::int64_t>(i), files[i]);
    fmt::print("{:.1f}\n", rate(files, std::stoi(argv[2]), std::stoll(argv[3]), std::stod(argv[4])));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
