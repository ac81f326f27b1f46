// Writes the sample of these tests, for read_with_h5py.py.
#include "unit/checkpoint/sample.h"

int main(int count, char** arguments) {
  if (count != 2) return 2;
  credence::write_checkpoint(arguments[1], credence::testing::make_sample().contents);
}
