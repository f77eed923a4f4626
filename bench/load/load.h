/* What the parts of the load generator share. */
#ifndef LOAD_H
#define LOAD_H

#include <librdkafka/rdkafka.h>
#include <stdatomic.h>
#include <stdint.h>

enum { ERROR_TEXT_BYTES = 512, STAMP_BYTES = 8, SECOND_NS = 1000000000 };

struct options {
        const char *mode, *topic;
        long size, count, partitions, from, rounds, run, rate, topics, latency, writers, readers;
        double seconds, warmup, seconds_max;
};

/* Latencies in the order in which they came; grows as needed. Only one thread adds. */
struct latencies {
        float *ms;
        long count, room;
        double sum, max;
};

int64_t now_ns(void);
void nap_until(int64_t when_ns, int64_t most_ns);
_Noreturn void die(const char *what, const char *why);
void latencies_add(struct latencies *latencies, int64_t ns);
void latencies_print(struct latencies *latencies);
rd_kafka_t *client_of(rd_kafka_type_t type, rd_kafka_conf_t *conf);

int produce(const rd_kafka_conf_t *conf, const struct options *options);
int consume(const rd_kafka_conf_t *conf, const struct options *options);
int end_to_end(const rd_kafka_conf_t *conf, const struct options *options);

#endif
