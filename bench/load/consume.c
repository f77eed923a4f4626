/* Reading: each reader is a client and a thread of its own, with its share of the partitions. Keeps:
 * the clock starts at the first record handed over, so that what consumers sustain is measured, not
 * their look-up of the leader; that record's batch does not count. */
#include "load.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 1000, WAIT_MS = 100 };

struct pass {
        const struct options *options;
        atomic_long taken, uncounted, failed;
        _Atomic int64_t first_ns, last_ns;
        int64_t deadline_ns;
};

struct reader {
        struct pass *pass;
        rd_kafka_t *client;
        long number;
};

static void assign(const struct reader *reader, const struct options *options) {
        rd_kafka_topic_partition_list_t *assignment = rd_kafka_topic_partition_list_new((int)options->partitions);
        for (long partition = reader->number % options->partitions; partition < options->partitions;
             partition += options->readers)
                rd_kafka_topic_partition_list_add(assignment, options->topic, (int32_t)partition)->offset = options->from;
        rd_kafka_assign(reader->client, assignment);
        rd_kafka_topic_partition_list_destroy(assignment);
}

static long take(rd_kafka_queue_t *queue, rd_kafka_message_t **messages, size_t wanted, struct pass *pass) {
        ssize_t got = rd_kafka_consume_batch_queue(queue, WAIT_MS, messages, wanted);
        long good = 0;
        for (ssize_t i = 0; i < got; i++) {
                if (messages[i]->err) {
                        atomic_fetch_add(&pass->failed, 1);
                        fprintf(stderr, "load: %s\n", rd_kafka_message_errstr(messages[i]));
                } else {
                        good++;
                }
                rd_kafka_message_destroy(messages[i]);
        }
        return good;
}

static int64_t ends_ns(const struct pass *pass) {
        int64_t first = atomic_load(&pass->first_ns);
        if (!first || pass->options->seconds <= 0)
                return pass->deadline_ns;
        return first + (int64_t)(pass->options->seconds * SECOND_NS);
}

static void *read_share(void *opaque) {
        struct reader *reader = opaque;
        struct pass *pass = reader->pass;
        rd_kafka_message_t *messages[BATCH];
        rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(reader->client);
        long left;
        while ((left = pass->options->count - atomic_load(&pass->taken)) > 0 && now_ns() < ends_ns(pass)) {
                /* Never ask for more than is due: the call waits until it has as many. */
                long share = (left + pass->options->readers - 1) / pass->options->readers;
                long good = take(queue, messages, share < BATCH ? (size_t)share : BATCH, pass);
                if (!good)
                        continue;
                int64_t now = now_ns(), none = 0;
                if (atomic_compare_exchange_strong(&pass->first_ns, &none, now))
                        atomic_store(&pass->uncounted, good);
                atomic_store(&pass->last_ns, now);
                atomic_fetch_add(&pass->taken, good);
        }
        rd_kafka_queue_destroy(queue);
        rd_kafka_assign(reader->client, NULL);
        return NULL;
}

/* All readers once over `count` records; the seconds that it took. */
static double read_pass(struct reader *readers, struct pass *pass) {
        long count = pass->options->readers;
        pthread_t *threads = calloc((size_t)count, sizeof *threads);
        pass->deadline_ns = now_ns() + (int64_t)(pass->options->seconds_max * SECOND_NS);
        for (long i = 0; i < count; i++) {
                readers[i].pass = pass;
                assign(&readers[i], pass->options);
        }
        for (long i = 0; i < count; i++)
                pthread_create(&threads[i], NULL, read_share, &readers[i]);
        for (long i = 0; i < count; i++)
                pthread_join(threads[i], NULL);
        free(threads);
        return (double)(atomic_load(&pass->last_ns) - atomic_load(&pass->first_ns)) / SECOND_NS;
}

static struct reader *readers_of(const rd_kafka_conf_t *conf, long count) {
        char why[ERROR_TEXT_BYTES];
        struct reader *readers = calloc((size_t)count, sizeof *readers);
        for (long i = 0; i < count; i++) {
                rd_kafka_conf_t *own = rd_kafka_conf_dup(conf);
                if (rd_kafka_conf_set(own, "group.id", "bench-load", why, sizeof why) ||
                    rd_kafka_conf_set(own, "enable.auto.commit", "false", why, sizeof why))
                        die("consumer", why);
                readers[i].number = i;
                readers[i].client = client_of(RD_KAFKA_CONSUMER, own);
                rd_kafka_poll_set_consumer(readers[i].client);
        }
        return readers;
}

int consume(const rd_kafka_conf_t *conf, const struct options *options) {
        if (options->count <= 0 || options->readers > options->partitions)
                die("consume", "count is required, and no more readers than partitions");
        struct reader *readers = readers_of(conf, options->readers);
        long records = 0, failed = 0, taken = 0;
        double seconds = 0;
        for (long round = 0; round < options->rounds; round++) {
                struct pass pass = {.options = options};
                seconds += read_pass(readers, &pass);
                taken += atomic_load(&pass.taken);
                records += atomic_load(&pass.taken) - atomic_load(&pass.uncounted);
                failed += atomic_load(&pass.failed);
        }
        printf("{\"records\": %ld, \"failed\": %ld, \"seconds\": %.6f}\n", records, failed, seconds);
        int complete = options->seconds > 0 || taken >= options->rounds * options->count;
        if (!complete)
                fprintf(stderr, "load: %ld of %ld records were read in time\n", taken, options->rounds * options->count);
        return failed || !records || !complete ? 1 : 0;
}
