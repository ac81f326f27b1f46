#include <credence/kernels/noise.h>

#include <cstdio>

int main() {
  const auto words = credence::kernels::philox4x32_10({0, 0, 0, 0}, {0, 0});
  std::printf("%08x\n", words[0]);
}
