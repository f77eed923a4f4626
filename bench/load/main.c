/* Load generator for the benches: as thin a layer over librdkafka as can be, so that the client
 * costs the measured server as little of the machine as possible.
 *
 *   load produce    bootstrap=H:P topic=T size=BYTES count=N|seconds=S [warmup=S] [writers=N] [topics=N]
 *                   [partitions=N] [run=RECORDS] [rate=PER_SECOND] [latency=1] [CONF=VALUE]...
 *   load consume    bootstrap=H:P topic=T count=N [seconds=S] [readers=N] [partitions=N] [from_offset=OFFSET] [rounds=N]
 *   load end-to-end bootstrap=H:P topic=T size=BYTES rate=PER_SECOND seconds=S [warmup=S] [partitions=N]
 *
 * Any other KEY=VALUE is librdkafka configuration. Prints one JSON object. Keeps: `records` counts
 * only records that the server has acknowledged (produce) or that were handed over (consume), and
 * the exit status is 1 when one failed or `seconds_max` (default 60) ran out. With `rate` the loop is
 * open: latency counts from when a record was due, however late it was sent.
 */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int own_option(struct options *options, const char *key, const char *value) {
        struct {
                const char *name;
                long *whole;
                double *real;
        } known[] = {
            {"size", &options->size, NULL},          {"count", &options->count, NULL},
            {"partitions", &options->partitions, NULL}, {"from_offset", &options->from, NULL},
            {"rounds", &options->rounds, NULL},      {"rate", &options->rate, NULL},
            {"latency", &options->latency, NULL},    {"writers", &options->writers, NULL},
            {"readers", &options->readers, NULL},    {"run", &options->run, NULL},
            {"topics", &options->topics, NULL},
                {"seconds", NULL, &options->seconds},
            {"warmup", NULL, &options->warmup},      {"seconds_max", NULL, &options->seconds_max},
        };
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
                if (strcmp(key, known[i].name))
                        continue;
                if (known[i].whole)
                        *known[i].whole = atol(value);
                else
                        *known[i].real = atof(value);
                return 1;
        }
        return 0;
}

static void parse(int argc, char **argv, struct options *options, rd_kafka_conf_t *conf) {
        char why[ERROR_TEXT_BYTES];
        for (int i = 2; i < argc; i++) {
                char *value = strchr(argv[i], '=');
                if (!value)
                        die(argv[i], "expected KEY=VALUE");
                *value++ = 0;
                const char *key = argv[i];
                if (!strcmp(key, "topic"))
                        options->topic = value;
                else if (!own_option(options, key, value) &&
                         rd_kafka_conf_set(conf, !strcmp(key, "bootstrap") ? "bootstrap.servers" : key, value, why,
                                           sizeof why) != RD_KAFKA_CONF_OK)
                        die(key, why);
        }
        if (!options->topic || (options->count <= 0 && options->seconds <= 0))
                die("arguments", "topic, and count or seconds, are required");
}

int main(int argc, char **argv) {
        if (argc < 2)
                die("usage", "load produce|consume|end-to-end KEY=VALUE...");
        struct options options = {.mode = argv[1],
                                  .size = 100,
                                  .partitions = 1,
                                  .rounds = 1,
                                  .run = 1,
                                  .topics = 1,
                                  .writers = 1,
                                  .readers = 1,
                                  .seconds_max = 60};
        rd_kafka_conf_t *conf = rd_kafka_conf_new();
        parse(argc, argv, &options, conf);
        int status;
        if (!strcmp(options.mode, "produce"))
                status = produce(conf, &options);
        else if (!strcmp(options.mode, "consume"))
                status = consume(conf, &options);
        else if (!strcmp(options.mode, "end-to-end"))
                status = end_to_end(conf, &options);
        else
                die(options.mode, "no such mode");
        fflush(stdout);
        _exit(status); /* tearing the clients down is no part of the load */
}
