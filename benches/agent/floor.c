// The least that an agent's cycle can cost in C: read the machine's CPU time, five power files and the CPU time of every
// process, once a period, and neither keep nor send anything.
//
// usage: floor kept|reopened SYSFS PERIOD_MS
//
// kept:     a descriptor of /proc/PID/stat stays open for each process; the list of processes is read anew each cycle.
// reopened: each /proc/PID/stat is opened, read and closed in each cycle.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define POWERS 5
#define PIDS (4 << 20)

static const char *const power_files[POWERS] = {
    "class/powercap/intel-rapl:0/energy_uj",   "class/powercap/intel-rapl:0:0/energy_uj",
    "class/powercap/intel-rapl:1/energy_uj",   "class/powercap/intel-rapl:1:0/energy_uj",
    "class/hwmon/hwmon0/power1_average",
};
static int *descriptors; // by process id; 0 = none

static unsigned long long number_at(int descriptor) {
    char text[64];
    ssize_t length = pread(descriptor, text, sizeof text - 1, 0);
    if (length <= 0) return 0;
    text[length] = 0;
    return strtoull(text, NULL, 10);
}

// User and system time of one line of /proc/PID/stat: the 12th and 13th field behind the command's name.
static unsigned long long ticks_of(char *line) {
    char *at = strrchr(line, ')');
    for (int skipped = 0; at && skipped < 12; skipped++) at = strchr(at + 1, ' ');
    if (!at) return 0;
    unsigned long long user = strtoull(at, &at, 10);
    return user + strtoull(at, &at, 10);
}

static unsigned long long process(int pid, int keep) {
    char path[32], line[1024];
    int descriptor = keep ? descriptors[pid] : 0;
    if (!descriptor) {
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (descriptor < 0) return 0;
    }
    ssize_t length = pread(descriptor, line, sizeof line - 1, 0);
    if (!keep || length <= 0) {
        close(descriptor);
        descriptor = 0;
    }
    if (keep) descriptors[pid] = descriptor;
    if (length <= 0) return 0;
    line[length] = 0;
    return ticks_of(line);
}

int main(int count, char **words) {
    if (count != 4) {
        fprintf(stderr, "usage: floor kept|reopened SYSFS PERIOD_MS\n");
        return 64;
    }
    int keep = !strcmp(words[1], "kept");
    long period = atol(words[3]) * 1000000L;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    descriptors = calloc(PIDS, sizeof *descriptors);
    int powers[POWERS];
    for (int i = 0; i < POWERS; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", words[2], power_files[i]);
        powers[i] = open(path, O_RDONLY | O_CLOEXEC);
        if (powers[i] < 0) {
            fprintf(stderr, "floor: %s: %s\n", path, strerror(errno));
            return 66;
        }
    }
    int machine = open("/proc/stat", O_RDONLY | O_CLOEXEC);
    DIR *processes = opendir("/proc");
    if (machine < 0 || !processes || !descriptors) return 71;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    volatile unsigned long long sum = 0;
    for (int cycle = 0;; cycle++) {
        char line[512];
        for (int i = 0; i < POWERS; i++) sum += number_at(powers[i]);
        sum += pread(machine, line, sizeof line, 0) > 0;
        rewinddir(processes);
        for (struct dirent *entry; (entry = readdir(processes));) {
            int pid = atoi(entry->d_name);
            if (pid > 0 && pid < PIDS) sum += process(pid, keep);
        }
        if (!cycle) {
            puts("ready");
            fflush(stdout);
        }
        next.tv_nsec += period;
        for (; next.tv_nsec >= 1000000000L; next.tv_nsec -= 1000000000L) next.tv_sec++;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
    }
}
