/* What the modes of the load generator use: clocks, latencies, clients, and an end with a reason. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int64_t now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * SECOND_NS + t.tv_nsec;
}

void nap_until(int64_t when_ns, int64_t most_ns) {
        int64_t left = when_ns - now_ns();
        if (left > most_ns)
                left = most_ns;
        if (left <= 0)
                return;
        struct timespec t = {.tv_sec = left / SECOND_NS, .tv_nsec = left % SECOND_NS};
        nanosleep(&t, NULL);
}

void die(const char *what, const char *why) {
        fprintf(stderr, "load: %s: %s\n", what, why);
        exit(2);
}

void latencies_add(struct latencies *latencies, int64_t ns) {
        if (latencies->count == latencies->room) {
                latencies->room = latencies->room ? 2 * latencies->room : 1 << 16;
                latencies->ms = realloc(latencies->ms, (size_t)latencies->room * sizeof *latencies->ms);
                if (!latencies->ms)
                        die("latencies", "out of memory");
        }
        double ms = (double)ns / 1e6;
        latencies->ms[latencies->count++] = (float)ms;
        latencies->sum += ms;
        if (ms > latencies->max)
                latencies->max = ms;
}

static int ascending(const void *left, const void *right) {
        float a = *(const float *)left, b = *(const float *)right;
        return (a > b) - (a < b);
}

void latencies_print(struct latencies *latencies) {
        static const struct {
                const char *name;
                double part;
        } percentiles[] = {{"p50", .5}, {"p95", .95}, {"p99", .99}, {"p99_9", .999}, {"p99_99", .9999}};
        if (!latencies->count)
                return;
        qsort(latencies->ms, (size_t)latencies->count, sizeof *latencies->ms, ascending);
        printf(", \"avg_ms\": %.3f, \"max_ms\": %.3f", latencies->sum / (double)latencies->count, latencies->max);
        for (size_t i = 0; i < sizeof percentiles / sizeof *percentiles; i++)
                printf(", \"%s_ms\": %.3f", percentiles[i].name,
                       latencies->ms[(long)(percentiles[i].part * (double)(latencies->count - 1))]);
}

/* A client with a copy of the configuration. */
rd_kafka_t *client_of(rd_kafka_type_t type, rd_kafka_conf_t *conf) {
        char why[ERROR_TEXT_BYTES];
        rd_kafka_t *client = rd_kafka_new(type, conf, why, sizeof why);
        if (!client)
                die("client", why);
        return client;
}
