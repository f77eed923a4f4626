/* Writing: in a burst one thread hands records over and now and then hears what became of them; in an open
 * loop another thread hears, so that neither waits for the other. Keeps: a record counts when its time lies in the measured window: the time when it was due if the loop is open,
 * else the time of its acknowledgement. */
#include "load.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLOCK_EVERY = 32, HEAR_EVERY = 1024, NAP_NS = 200000, FULL_MS = 10, HEAR_MS = 100, NAME_BYTES = 256 };

struct production {
        const struct options *options;
        rd_kafka_t **clients;
        rd_kafka_topic_t **topics;
        int64_t start_ns, from_ns, until_ns, last_ns, ended_ns;
        long sent, measured;
        atomic_long finished, failed;
        atomic_int over;
        struct latencies latencies;
        char error[ERROR_TEXT_BYTES];
};

static void delivered(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
        struct production *run = opaque;
        (void)client;
        if (message->err) {
                snprintf(run->error, sizeof run->error, "%s", rd_kafka_err2str(message->err));
                atomic_fetch_add(&run->failed, 1);
                return;
        }
        long number = atomic_fetch_add(&run->finished, 1);
        if (run->options->latency || number % CLOCK_EVERY == 0)
                run->last_ns = now_ns();
        int64_t due_ns = run->start_ns + (int64_t)(intptr_t)message->_private;
        int64_t counted_ns = run->options->rate ? due_ns : run->last_ns;
        if (counted_ns < run->from_ns || counted_ns >= run->until_ns)
                return;
        run->measured++;
        if (run->options->latency)
                latencies_add(&run->latencies, run->last_ns - due_ns);
}

/* One client is waited for; of many each is asked in turn. */
static void hear(struct production *run, int wait_ms) {
        long writers = run->options->writers;
        int heard = 0;
        for (long i = 0; i < writers; i++)
                heard += rd_kafka_poll(run->clients[i], writers == 1 ? wait_ms : 0);
        if (writers > 1 && wait_ms && !heard)
                nap_until(INT64_MAX, NAP_NS);
}

static void *hear_always(void *opaque) {
        struct production *run = opaque;
        while (!atomic_load(&run->over))
                hear(run, HEAR_MS);
        return NULL;
}

/* With several topics each writer has its own, so that it knows of no partition but those. */
static const char *topic_of(const struct options *options, long writer, char *name) {
        if (options->topics <= 1)
                return options->topic;
        snprintf(name, NAME_BYTES, "%s-%ld", options->topic, writer % options->topics);
        return name;
}

static void connect_all(struct production *run, const rd_kafka_conf_t *conf) {
        char name[NAME_BYTES];
        long writers = run->options->writers;
        run->clients = calloc((size_t)writers, sizeof *run->clients);
        run->topics = calloc((size_t)writers, sizeof *run->topics);
        for (long i = 0; i < writers; i++) {
                rd_kafka_conf_t *own = rd_kafka_conf_dup(conf);
                rd_kafka_conf_set_opaque(own, run);
                rd_kafka_conf_set_dr_msg_cb(own, delivered);
                run->clients[i] = client_of(RD_KAFKA_PRODUCER, own);
                run->topics[i] = rd_kafka_topic_new(run->clients[i], topic_of(run->options, i, name), NULL);
        }
        for (long i = 0; i < writers; i++) {
                const struct rd_kafka_metadata *metadata;
                rd_kafka_resp_err_t error = rd_kafka_metadata(run->clients[i], 0, run->topics[i], &metadata, 30000);
                if (error)
                        die("metadata", rd_kafka_err2str(error));
                rd_kafka_metadata_destroy(metadata);
        }
}

static char *letters(long size) {
        char *payload = malloc((size_t)size);
        unsigned random = 12345;
        for (long i = 0; i < size; i++) {
                random = random * 1103515245u + 12345u;
                payload[i] = (char)(random >> 16);
        }
        return payload;
}

/* The time when the next record is due, or 0 when there is none. */
static int64_t next_due_ns(const struct production *run, int64_t now) {
        const struct options *options = run->options;
        if (options->count && run->sent >= options->count)
                return 0;
        int64_t due = options->rate ? run->start_ns + (int64_t)((double)run->sent * SECOND_NS / (double)options->rate) : now;
        return !options->count && due >= run->until_ns ? 0 : due;
}

/* The writer and the partition of a record: `run` records in a row go to the same, as a client's own batches do.
 * Several writers of one topic share its partitions among them. */
static long writer_of(const struct options *options, long number) {
        return number / options->run % options->writers;
}

static int32_t partition_of(const struct options *options, long number) {
        long turn = number / options->run;
        return (int32_t)((options->topics > 1 ? turn / options->writers : turn) % options->partitions);
}

static void send_all(struct production *run, int64_t deadline_ns) {
        const struct options *options = run->options;
        char *payload = letters(options->size > STAMP_BYTES ? options->size : STAMP_BYTES);
        int64_t now = now_ns(), due;
        while ((due = next_due_ns(run, now)) != 0 && now < deadline_ns) {
                if (due > now) {
                        nap_until(due > now + NAP_NS ? due : now + NAP_NS, SECOND_NS / 10);
                        now = now_ns();
                        continue;
                }
                memcpy(payload, &due, STAMP_BYTES);
                if (rd_kafka_produce(run->topics[writer_of(options, run->sent)], partition_of(options, run->sent),
                                     RD_KAFKA_MSG_F_COPY, payload, (size_t)options->size, NULL, 0,
                                     (void *)(intptr_t)(due - run->start_ns)) == 0) {
                        if (++run->sent % CLOCK_EVERY == 0 || options->rate)
                                now = now_ns();
                        if (!options->rate && run->sent % HEAR_EVERY == 0)
                                hear(run, 0);
                } else if (rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL) {
                        if (options->rate)
                                nap_until(INT64_MAX, NAP_NS);
                        else
                                hear(run, FULL_MS);
                        now = now_ns();
                } else {
                        die("produce", rd_kafka_err2str(rd_kafka_last_error()));
                }
        }
        free(payload);
}

static int finished(struct production *run) {
        return atomic_load(&run->finished) + atomic_load(&run->failed) >= run->sent;
}

static int report(struct production *run) {
        const struct options *options = run->options;
        long failed = atomic_load(&run->failed), acknowledged = atomic_load(&run->finished);
        double seconds = options->seconds > 0 ? options->seconds : (double)(run->ended_ns - run->start_ns) / SECOND_NS;
        printf("{\"records\": %ld, \"failed\": %ld, \"seconds\": %.6f, \"acknowledged\": %ld",
               options->seconds > 0 ? run->measured : acknowledged, failed, seconds, acknowledged);
        latencies_print(&run->latencies);
        printf("}\n");
        if (failed)
                fprintf(stderr, "load: %ld records failed, last: %s\n", failed, run->error);
        if (!finished(run))
                fprintf(stderr, "load: %ld of %ld records were not acknowledged in time\n",
                        run->sent - acknowledged - failed, run->sent);
        return !failed && finished(run) ? 0 : 1;
}

static void prepare(struct production *run, const rd_kafka_conf_t *conf) {
        connect_all(run, conf);
        run->start_ns = now_ns();
        run->from_ns = run->start_ns + (int64_t)(run->options->warmup * SECOND_NS);
        run->until_ns = run->options->seconds > 0 ? run->from_ns + (int64_t)(run->options->seconds * SECOND_NS) : INT64_MAX;
}

/* Send everything and wait until it has come back. */
static void carry_out(struct production *run) {
        int64_t deadline_ns = run->start_ns + (int64_t)(run->options->seconds_max * SECOND_NS);
        pthread_t hearing;
        if (run->options->rate)
                pthread_create(&hearing, NULL, hear_always, run);
        send_all(run, deadline_ns);
        while (!finished(run) && now_ns() < deadline_ns) {
                if (run->options->rate)
                        nap_until(deadline_ns, NAP_NS);
                else
                        hear(run, FULL_MS);
        }
        run->ended_ns = now_ns();
        atomic_store(&run->over, 1);
        if (run->options->rate)
                pthread_join(hearing, NULL);
}

int produce(const rd_kafka_conf_t *conf, const struct options *options) {
        struct production run = {.options = options};
        prepare(&run, conf);
        carry_out(&run);
        return report(&run);
}

/* Reading what this process writes: from a record's due time until it is handed over. */

struct reading {
        struct production *writing;
        rd_kafka_t *client;
        struct latencies latencies;
        atomic_long taken;
        atomic_int over;
};

static void *read_stamps(void *opaque) {
        struct reading *reading = opaque;
        const struct production *run = reading->writing;
        while (!atomic_load(&reading->over)) {
                rd_kafka_message_t *message = rd_kafka_consumer_poll(reading->client, HEAR_MS);
                if (!message)
                        continue;
                if (!message->err) {
                        int64_t due;
                        memcpy(&due, message->payload, STAMP_BYTES);
                        if (due >= run->from_ns && due < run->until_ns)
                                latencies_add(&reading->latencies, now_ns() - due);
                        atomic_fetch_add(&reading->taken, 1);
                }
                rd_kafka_message_destroy(message);
        }
        return NULL;
}

static void follow(struct reading *reading, const rd_kafka_conf_t *conf, const struct options *options) {
        char why[ERROR_TEXT_BYTES];
        rd_kafka_conf_t *own = rd_kafka_conf_dup(conf);
        if (rd_kafka_conf_set(own, "group.id", "bench-load", why, sizeof why) != RD_KAFKA_CONF_OK)
                die("consumer", why);
        reading->client = client_of(RD_KAFKA_CONSUMER, own);
        rd_kafka_poll_set_consumer(reading->client);
        rd_kafka_topic_partition_list_t *assignment = rd_kafka_topic_partition_list_new((int)options->partitions);
        for (int32_t partition = 0; partition < options->partitions; partition++) {
                int64_t low, high;
                rd_kafka_resp_err_t error =
                    rd_kafka_query_watermark_offsets(reading->client, options->topic, partition, &low, &high, 30000);
                if (error)
                        die("offsets", rd_kafka_err2str(error));
                rd_kafka_topic_partition_list_add(assignment, options->topic, partition)->offset = high;
        }
        rd_kafka_assign(reading->client, assignment);
        rd_kafka_topic_partition_list_destroy(assignment);
}

int end_to_end(const rd_kafka_conf_t *conf, const struct options *options) {
        if (options->size < STAMP_BYTES || options->seconds <= 0 || !options->rate)
                die("end-to-end", "seconds, rate and a size of 8 bytes and more are required");
        struct production run = {.options = options};
        struct reading reading = {.writing = &run};
        follow(&reading, conf, options);
        prepare(&run, conf);
        pthread_t reader;
        pthread_create(&reader, NULL, read_stamps, &reading);
        carry_out(&run);
        int64_t deadline_ns = now_ns() + (int64_t)(options->seconds_max * SECOND_NS);
        while (atomic_load(&reading.taken) < run.sent && now_ns() < deadline_ns)
                nap_until(deadline_ns, NAP_NS);
        atomic_store(&reading.over, 1);
        pthread_join(reader, NULL);
        long missing = run.sent - atomic_load(&reading.taken);
        if (missing)
                fprintf(stderr, "load: %ld records were not read\n", missing);
        run.latencies = reading.latencies;
        run.measured = reading.latencies.count;
        return report(&run) || missing;
}
