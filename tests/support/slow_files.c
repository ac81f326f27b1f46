/* For LD_PRELOAD: in rank SLOW_RANK, each open() and pread() of a file whose path has SLOW_PART in it
   takes SLOW_MILLISECONDS longer, as on a slow file system. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int is_slow(const char* path) {
  const char* const rank = getenv("OMPI_COMM_WORLD_RANK");
  const char* const slow_rank = getenv("SLOW_RANK");
  const char* const part = getenv("SLOW_PART");
  if (rank == NULL || slow_rank == NULL || part == NULL || strcmp(rank, slow_rank) != 0) return 0;
  return strstr(path, part) != NULL;
}

static void wait_a_while(void) {
  const char* const text = getenv("SLOW_MILLISECONDS");
  const long milliseconds = text == NULL ? 0 : atol(text);
  const struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  nanosleep(&time, NULL);
}

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  int (*const next)(const char*, int, ...) = (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open");
  if (is_slow(path)) wait_a_while();
  return next(path, flags, mode);
}

ssize_t pread(int descriptor, void* buffer, size_t bytes, off_t offset) {
  ssize_t (*const next)(int, void*, size_t, off_t) = (ssize_t(*)(int, void*, size_t, off_t))dlsym(RTLD_NEXT, "pread");
  char link[64];
  char path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length > 0) {
    path[length] = '\0';
    if (is_slow(path)) wait_a_while();
  }
  return next(descriptor, buffer, bytes, offset);
}
