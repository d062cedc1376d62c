// A process to be watched. usage: sleeper THREADS PERIOD_MS
//
// It has THREADS threads, all but the first asleep for ever. The first one sleeps for ever too, or, with a period, works
// a little each PERIOD_MS, so that its CPU time moves.
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void *rest(void *nothing) {
    for (;;) pause();
    return nothing;
}

int main(int count, char **words) {
    int threads = count > 1 ? atoi(words[1]) : 1;
    long period = count > 2 ? atol(words[2]) : 0;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 * 1024);
    for (int made = 1; made < threads; made++) {
        pthread_t thread;
        if (pthread_create(&thread, &small, rest, NULL)) return 71;
    }
    if (!period) rest(NULL);
    struct timespec wait = {period / 1000, period % 1000 * 1000000L};
    for (;;) {
        volatile unsigned long sum = 0;
        for (unsigned long i = 0; i < 100000; i++) sum += i;
        nanosleep(&wait, NULL);
    }
}
