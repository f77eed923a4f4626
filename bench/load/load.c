/* Load generator for the benches: as thin a layer over librdkafka as can be, so that the client
 * costs the measured server as little of the machine as possible.
 *
 *   load produce bootstrap=H:P topic=T size=BYTES count=N [partitions=N] [rate=PER_SECOND] [CONF=VALUE]...
 *   load consume bootstrap=H:P topic=T count=N [partitions=N] [from_offset=OFFSET] [rounds=N] [CONF=VALUE]...
 *
 * Any other KEY=VALUE is librdkafka configuration. Prints one JSON object. Keeps: `records` counts
 * only records that the server has acknowledged (produce) or that were handed over (consume), and
 * the exit status is 1 when one failed or `seconds_max` (default 60) ran out.
 */
#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { POLL_EVERY = 1024, CONSUME_BATCH = 1000, ERROR_TEXT_BYTES = 512 };

struct options {
        const char *mode, *topic;
        long size, count, partitions, from, rounds, rate, latency;
        double seconds_max;
};

struct outcome {
        long acknowledged, failed;
        double *latencies_s; /* one per record when `latency=1`, else NULL */
        char error[ERROR_TEXT_BYTES];
};

static double now_s(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what, const char *why) {
        fprintf(stderr, "load: %s: %s\n", what, why);
        exit(2);
}

static void delivered(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
        struct outcome *outcome = opaque;
        (void)client;
        if (message->err) {
                outcome->failed++;
                snprintf(outcome->error, sizeof outcome->error, "%s", rd_kafka_err2str(message->err));
                return;
        }
        if (outcome->latencies_s)
                outcome->latencies_s[outcome->acknowledged] = (double)rd_kafka_message_latency(message) / 1e6;
        outcome->acknowledged++;
}

static int ascending(const void *left, const void *right) {
        double a = *(const double *)left, b = *(const double *)right;
        return (a > b) - (a < b);
}

static int produce(rd_kafka_t *client, const struct options *options, struct outcome *outcome) {
        char *payload = malloc((size_t)options->size);
        unsigned random = 12345;
        for (long i = 0; i < options->size; i++) {
                random = random * 1103515245u + 12345u;
                payload[i] = (char)(random >> 16);
        }
        rd_kafka_topic_t *topic = rd_kafka_topic_new(client, options->topic, NULL);
        const struct rd_kafka_metadata *metadata;
        rd_kafka_resp_err_t error = rd_kafka_metadata(client, 0, topic, &metadata, 10000);
        if (error)
                die("metadata", rd_kafka_err2str(error));
        rd_kafka_metadata_destroy(metadata);

        double start = now_s(), deadline = start + options->seconds_max;
        for (long sent = 0; sent < options->count;) {
                if (options->rate && (double)sent > (now_s() - start) * (double)options->rate) {
                        rd_kafka_poll(client, 1);
                        continue;
                }
                int32_t partition = (int32_t)(sent % options->partitions);
                if (rd_kafka_produce(topic, partition, RD_KAFKA_MSG_F_COPY, payload, (size_t)options->size,
                                     NULL, 0, NULL) == 0) {
                        if (++sent % POLL_EVERY == 0)
                                rd_kafka_poll(client, 0);
                } else if (rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
                        rd_kafka_poll(client, 10);
                } else {
                        die("produce", rd_kafka_err2str(rd_kafka_last_error()));
                }
                if (sent % POLL_EVERY == 0 && now_s() > deadline)
                        break;
        }
        double left = deadline - now_s();
        rd_kafka_flush(client, left > 0 ? (int)(left * 1000) : 0);
        double elapsed = now_s() - start;
        printf("{\"records\": %ld, \"failed\": %ld, \"seconds\": %.6f", outcome->acknowledged, outcome->failed, elapsed);
        if (outcome->latencies_s && outcome->acknowledged) {
                qsort(outcome->latencies_s, (size_t)outcome->acknowledged, sizeof(double), ascending);
                printf(", \"p50_ms\": %.3f, \"p99_ms\": %.3f", outcome->latencies_s[outcome->acknowledged / 2] * 1000,
                       outcome->latencies_s[outcome->acknowledged * 99 / 100] * 1000);
        }
        printf("}\n");
        if (outcome->failed)
                fprintf(stderr, "load: %ld records failed, last: %s\n", outcome->failed, outcome->error);
        rd_kafka_topic_destroy(topic);
        free(payload);
        return outcome->acknowledged == options->count ? 0 : 1;
}

/* One pass over `count` records. The clock starts at the first record handed over: what a consumer
 * sustains is measured, not its look-up of the leader. */
static double consume_round(rd_kafka_t *client, const struct options *options, struct outcome *outcome) {
        static rd_kafka_message_t *messages[CONSUME_BATCH];
        rd_kafka_topic_partition_list_t *assignment = rd_kafka_topic_partition_list_new((int)options->partitions);
        for (int32_t partition = 0; partition < options->partitions; partition++)
                rd_kafka_topic_partition_list_add(assignment, options->topic, partition)->offset = options->from;
        rd_kafka_assign(client, assignment);
        rd_kafka_topic_partition_list_destroy(assignment);
        rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(client);

        double start = 0, deadline = now_s() + options->seconds_max;
        long consumed = 0, uncounted = 0;
        while (consumed < options->count && now_s() < deadline) {
                /* Never ask for more than is due: the call waits until it has as many. */
                long due = options->count - consumed;
                size_t wanted = due < CONSUME_BATCH ? (size_t)due : CONSUME_BATCH;
                ssize_t taken = rd_kafka_consume_batch_queue(queue, 100, messages, wanted);
                for (ssize_t i = 0; i < taken; i++) {
                        if (messages[i]->err) {
                                outcome->failed++;
                                snprintf(outcome->error, sizeof outcome->error, "%s",
                                         rd_kafka_message_errstr(messages[i]));
                        } else {
                                consumed++;
                        }
                        rd_kafka_message_destroy(messages[i]);
                }
                if (start == 0 && consumed) {
                        start = now_s();
                        uncounted = consumed;
                }
        }
        double elapsed = now_s() - start;
        rd_kafka_queue_destroy(queue);
        rd_kafka_assign(client, NULL);
        outcome->acknowledged += consumed - uncounted;
        return elapsed;
}

static int consume(rd_kafka_t *client, const struct options *options, struct outcome *outcome) {
        rd_kafka_poll_set_consumer(client);
        double elapsed = 0;
        for (long round = 0; round < options->rounds; round++)
                elapsed += consume_round(client, options, outcome);
        printf("{\"records\": %ld, \"failed\": %ld, \"seconds\": %.6f}\n", outcome->acknowledged, outcome->failed, elapsed);
        if (outcome->failed)
                fprintf(stderr, "load: %ld fetch errors, last: %s\n", outcome->failed, outcome->error);
        return outcome->failed || !outcome->acknowledged ? 1 : 0;
}

static void parse(int argc, char **argv, struct options *options, rd_kafka_conf_t *conf) {
        char why[ERROR_TEXT_BYTES];
        for (int i = 2; i < argc; i++) {
                char *value = strchr(argv[i], '=');
                if (!value)
                        die(argv[i], "expected KEY=VALUE");
                *value++ = 0;
                const char *key = argv[i];
                if (!strcmp(key, "topic")) options->topic = value;
                else if (!strcmp(key, "size")) options->size = atol(value);
                else if (!strcmp(key, "count")) options->count = atol(value);
                else if (!strcmp(key, "partitions")) options->partitions = atol(value);
                else if (!strcmp(key, "from_offset")) options->from = atol(value);
                else if (!strcmp(key, "rounds")) options->rounds = atol(value);
                else if (!strcmp(key, "rate")) options->rate = atol(value);
                else if (!strcmp(key, "latency")) options->latency = atol(value);
                else if (!strcmp(key, "seconds_max")) options->seconds_max = atof(value);
                else if (rd_kafka_conf_set(conf, !strcmp(key, "bootstrap") ? "bootstrap.servers" : key, value, why,
                                           sizeof why) != RD_KAFKA_CONF_OK)
                        die(key, why);
        }
        if (!options->topic || options->count <= 0)
                die("arguments", "topic and count are required");
}

int main(int argc, char **argv) {
        if (argc < 2)
                die("usage", "load produce|consume KEY=VALUE...");
        struct options options = {.mode = argv[1], .size = 100, .partitions = 1, .rounds = 1, .seconds_max = 60};
        struct outcome outcome = {0};
        char why[ERROR_TEXT_BYTES];
        rd_kafka_conf_t *conf = rd_kafka_conf_new();
        parse(argc, argv, &options, conf);
        int producing = !strcmp(options.mode, "produce");
        if (options.latency)
                outcome.latencies_s = calloc((size_t)options.count, sizeof(double));
        rd_kafka_conf_set_opaque(conf, &outcome);
        if (producing)
                rd_kafka_conf_set_dr_msg_cb(conf, delivered);
        else if (rd_kafka_conf_set(conf, "group.id", "bench-load", why, sizeof why) ||
                 rd_kafka_conf_set(conf, "enable.auto.commit", "false", why, sizeof why))
                die("consumer", why);
        rd_kafka_t *client = rd_kafka_new(producing ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER, conf, why, sizeof why);
        if (!client)
                die("client", why);
        int status = producing ? produce(client, &options, &outcome) : consume(client, &options, &outcome);
        fflush(stdout);
        free(outcome.latencies_s);
        _exit(status); /* tearing the client down is no part of the load */
}
