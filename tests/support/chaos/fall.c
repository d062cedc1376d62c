/* Loaded before all others: the process kills itself at one system call on a file.
 *
 * RIG_FALL=CALL:WHEN:NUMBER names the NUMBERth CALL (write, fdatasync, fsync, rename, unlink, create) and whether the
 * process falls before it, after it, or (for write) after half of it. A program has no failpoints in it then: they lie
 * between every two of its system calls. Only regular files count: sockets and pipes are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
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
int fsync(int fd) { AROUND("fsync", REAL(fsync)(fd)); }
int fdatasync(int fd) { AROUND("fdatasync", REAL(fdatasync)(fd)); }
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
