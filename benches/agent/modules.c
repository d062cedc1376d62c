// For LD_PRELOAD: a kernel built without modules has no /proc/modules, and a peer that unwraps it would not start. The
// file that BENCH_MODULES names is read instead, by this peer only.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

typedef int (*opener)(const char *, int, ...);

static const char *instead(const char *path) {
    const char *file = getenv("BENCH_MODULES");
    return file && path && !strcmp(path, "/proc/modules") ? file : path;
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return ((opener)dlsym(RTLD_NEXT, "open"))(instead(path), flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return ((opener)dlsym(RTLD_NEXT, "open64"))(instead(path), flags, mode);
}
