/* Faults that need the C library's help, preloaded into one process by the tests:
 *
 *   DALSTON_FAULT_CLOCK_OFFSET_S=3600    the wall clock of this process is an hour ahead (negative: behind);
 *                                        the monotonic clock, which timers use, is left alone.
 *   DALSTON_FAULT_FULL_WHILE=/path/flag  writes to regular files fail with "no space left on device" while the
 *                                        file `flag` exists; sockets, pipes and the standard streams (the log) still work.
 *   DALSTON_FAULT_LOG_FULL_WHILE=/path   the same for standard output and error alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static long offset_s(void) {
  static long cached;
  static int known;
  if (!known) {
    const char *text = getenv("DALSTON_FAULT_CLOCK_OFFSET_S");
    cached = text ? atol(text) : 0;
    known = 1;
  }
  return cached;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset_s();
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  static int (*real)(struct timeval *restrict, void *restrict);
  if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
  int result = real(now, zone);
  if (result == 0) now->tv_sec += offset_s();
  return result;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}

static int disk_is_full_for(int descriptor) {
  const char *flag = getenv(descriptor > STDERR_FILENO ? "DALSTON_FAULT_FULL_WHILE" : "DALSTON_FAULT_LOG_FULL_WHILE");
  struct stat facts;
  return flag && access(flag, F_OK) == 0 && fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode);
}

#define FAIL_WHEN_FULL(descriptor) \
  do { \
    if (disk_is_full_for(descriptor)) { \
      errno = ENOSPC; \
      return -1; \
    } \
  } while (0)

ssize_t write(int descriptor, const void *bytes, size_t size) {
  static ssize_t (*real)(int, const void *, size_t);
  if (!real) real = dlsym(RTLD_NEXT, "write");
  FAIL_WHEN_FULL(descriptor);
  return real(descriptor, bytes, size);
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
  static ssize_t (*real)(int, const struct iovec *, int);
  if (!real) real = dlsym(RTLD_NEXT, "writev");
  FAIL_WHEN_FULL(descriptor);
  return real(descriptor, parts, count);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t offset) {
  static ssize_t (*real)(int, const void *, size_t, off64_t);
  if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
  FAIL_WHEN_FULL(descriptor);
  return real(descriptor, bytes, size, offset);
}
