/* Loaded before all others: the process kills itself at one system call on a file.
 *
 * RIG_FALL=CALL:WHEN:NUMBER names the NUMBERth CALL (write, fdatasync, fsync, rename, unlink, create) and whether the
 * process falls before it, after it, or (for write) after half of it. A program has no failpoints in it then: they lie
 * between every two of its system calls. Only regular files count: sockets and pipes are left alone.
 *
 * WHEN may also be eio, for fdatasync and fsync: the process goes on, the call fails with EIO, and what was written to the
 * file since its last good sync is gone, as it is when the kernel drops pages that it could not write. For write, enospc
 * is such a failure: nothing is written, as on a full disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char call[16], when[16];
static atomic_long left;

__attribute__((constructor)) static void read_setting(void) {
  const char *setting = getenv("RIG_FALL");
  long number = 0;
  if (setting && sscanf(setting, "%15[^:]:%15[^:]:%ld", call, when, &number) == 3) atomic_store(&left, number);
}

/* Whether this is the call. */
static int here(const char *name) { return strcmp(call, name) == 0 && atomic_fetch_sub(&left, 1) == 1; }
static int at(const char *word) { return strcmp(when, word) == 0; }
static void fall(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}
static int is_file(int fd) {
  struct stat stat;
  return fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode);
}

#define FILES 4096
/* Size of each file at its last good sync, less one: 0 is a file that was never synced. */
static atomic_long synced[FILES];
static void note(int fd) {
  struct stat stat;
  if (fd >= 0 && fd < FILES && fstat(fd, &stat) == 0) atomic_store(&synced[fd], (long)stat.st_size + 1);
}
static int fail(int fd) {
  long size = fd >= 0 && fd < FILES ? atomic_load(&synced[fd]) : 0;
  if (ftruncate(fd, size > 0 ? size - 1 : 0) != 0) abort();
  errno = EIO;
  return -1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define AROUND(name, real)               \
  do {                                   \
    int hit = here(name);                \
    if (hit && at("before")) fall();     \
    __typeof__(real) result = real;      \
    if (hit) fall();                     \
    return result;                       \
  } while (0)
#define WRITE(whole, half)                                   \
  do {                                                       \
    int hit = is_file(fd) && here("write");                  \
    if (hit && at("before")) fall();                         \
    if (hit && at("enospc")) { errno = ENOSPC; return -1; }  \
    ssize_t result = hit && at("torn") ? half : whole;       \
    if (hit) fall();                                         \
    return result;                                           \
  } while (0)

ssize_t write(int fd, const void *bytes, size_t size) {
  WRITE(REAL(write)(fd, bytes, size), REAL(write)(fd, bytes, size / 2));
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
  WRITE(REAL(pwrite)(fd, bytes, size, offset), REAL(pwrite)(fd, bytes, size / 2, offset));
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
  WRITE(REAL(pwrite64)(fd, bytes, size, offset), REAL(pwrite64)(fd, bytes, size / 2, offset));
}
#define SYNC(name)                                      \
  int name(int fd) {                                     \
    int hit = is_file(fd) && here(#name);                \
    if (hit && at("eio")) return fail(fd);               \
    if (hit && at("before")) fall();                     \
    int result = REAL(name)(fd);                         \
    if (hit) fall();                                     \
    if (result == 0) note(fd);                           \
    return result;                                       \
  }
SYNC(fsync)
SYNC(fdatasync)
int close(int fd) {
  if (fd >= 0 && fd < FILES) atomic_store(&synced[fd], 0);
  return REAL(close)(fd);
}
int rename(const char *from, const char *to) { AROUND("rename", REAL(rename)(from, to)); }
int unlink(const char *path) { AROUND("unlink", REAL(unlink)(path)); }

#define OPEN(name)                                              \
  int name(const char *path, int flags, ...) {                  \
    va_list rest;                                               \
    va_start(rest, flags);                                      \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;   \
    va_end(rest);                                               \
    if (!(flags & O_CREAT)) return REAL(name)(path, flags, mode); \
    AROUND("create", REAL(name)(path, flags, mode));            \
  }
OPEN(open)
OPEN(open64)
