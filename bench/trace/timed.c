/* System calls with their times, as a thread of Python cannot take them: when one returns, its thread waits for the
 * interpreter before it looks at a clock. Beside the times: for how long the thread was ready and had no processor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { TEXT_BYTES = 96 };

struct times {
        int64_t began_ns, ended_ns, ready_ns; /* ready_ns: without a processor, since the thread began */
};

static int64_t now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Nanoseconds that this thread has waited for a processor, since it began. */
int64_t ready_ns(void) {
        static __thread int fd = -1;
        char text[TEXT_BYTES] = {0};
        long long ran, waited = 0;
        if (fd < 0)
                fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && pread(fd, text, sizeof text - 1, 0) > 0 && sscanf(text, "%lld %lld", &ran, &waited) != 2)
                waited = 0;
        return waited;
}

/* Both return what the call returned, or minus its error number. */
int64_t timed_write(int fd, const struct iovec *parts, int count, int64_t at, int flags, struct times *times) {
        times->began_ns = now_ns();
        ssize_t done = pwritev2(fd, parts, count, at, flags);
        int why = errno;
        times->ended_ns = now_ns();
        times->ready_ns = ready_ns();
        return done < 0 ? -why : done;
}

int64_t timed_sync(int fd, struct times *times) {
        times->began_ns = now_ns();
        int failed = fdatasync(fd), why = errno;
        times->ended_ns = now_ns();
        times->ready_ns = ready_ns();
        return failed ? -why : 0;
}
