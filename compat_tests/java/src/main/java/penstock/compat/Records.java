package penstock.compat;

import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** The Java producer and consumer. */
final class Records {
    private static final Map<String, String> ASSIGNORS = Map.of(
            "range", "org.apache.kafka.clients.consumer.RangeAssignor",
            "roundrobin", "org.apache.kafka.clients.consumer.RoundRobinAssignor",
            "sticky", "org.apache.kafka.clients.consumer.StickyAssignor",
            "cooperative-sticky", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");

    /** A consumer and the rebalance callbacks that it has had. */
    private static final class Member implements ConsumerRebalanceListener {
        final KafkaConsumer<byte[], byte[]> consumer;
        final List<List<Object>> events = new ArrayList<>();

        Member(KafkaConsumer<byte[], byte[]> consumer) {
            this.consumer = consumer;
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            events.add(List.of("revoked", places(partitions)));
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            events.add(List.of("assigned", places(partitions)));
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            events.add(List.of("lost", places(partitions)));
        }
    }

    private final String bootstrap;
    private final Map<Integer, KafkaProducer<byte[], byte[]>> producers = new HashMap<>();
    private final Map<Integer, Member> members = new HashMap<>();
    private int handles;

    Records(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    void register(Map<String, Agent.Operation> operations) {
        operations.put("producer_open", this::openProducer);
        operations.put("produce", this::produce);
        operations.put("producer_close", request -> {
            producers.remove(request.get("handle").asInt()).close(Duration.ofSeconds(10));
            return null;
        });
        operations.put("consumer_open", this::openConsumer);
        operations.put("poll", this::poll);
        operations.put("assignment", this::assignment);
        operations.put("commit", this::commit);
        operations.put("committed", this::committed);
        operations.put("position", request -> consumer(request).position(place(request)));
        operations.put("seek", this::seek);
        operations.put("consumer_close", request -> {
            members.remove(request.get("handle").asInt()).consumer.close();
            return null;
        });
    }

    static List<List<Object>> places(Collection<TopicPartition> partitions) {
        List<List<Object>> found = new ArrayList<>();
        for (TopicPartition partition : partitions) {
            found.add(List.of(partition.topic(), partition.partition()));
        }
        return found;
    }

    static TopicPartition place(JsonNode request) {
        return new TopicPartition(request.get("topic").asText(), request.get("partition").asInt());
    }

    static List<TopicPartition> placesOf(JsonNode pairs) {
        List<TopicPartition> found = new ArrayList<>();
        for (JsonNode pair : pairs) {
            found.add(new TopicPartition(pair.get(0).asText(), pair.get(1).asInt()));
        }
        return found;
    }

    private static byte[] unpacked(JsonNode text) {
        return text == null || text.isNull() ? null : Base64.getDecoder().decode(text.asText());
    }

    private static String packed(byte[] data) {
        return data == null ? null : Base64.getEncoder().encodeToString(data);
    }

    private static String text(JsonNode node) {
        return node == null || node.isNull() ? null : node.asText();
    }

    private Object openProducer(JsonNode request) {
        JsonNode config = request.get("config");
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.serializer", ByteArraySerializer.class);
        settings.put("value.serializer", ByteArraySerializer.class);
        settings.put("acks", config.get("acks").asText());
        settings.put("enable.idempotence", config.get("idempotent").asBoolean());
        settings.put("compression.type", config.get("compression").asText());
        settings.put("linger.ms", config.get("linger_ms").asInt());
        settings.put("max.request.size", config.get("max_request_bytes").asInt());
        settings.put("delivery.timeout.ms", config.get("delivery_timeout_ms").asInt());
        settings.put("request.timeout.ms", config.get("request_timeout_ms").asInt());
        settings.put("max.block.ms", config.get("request_timeout_ms").asInt());
        putIfGiven(settings, "transactional.id", text(config.get("transactional_id")));
        settings.put("transaction.timeout.ms", config.get("transaction_timeout_ms").asInt());
        settings.put("reconnect.backoff.max.ms", 500);
        producers.put(++handles, new KafkaProducer<>(settings));
        return handles;
    }

    private Object produce(JsonNode request) {
        KafkaProducer<byte[], byte[]> producer = producer(request);
        String topic = request.get("topic").asText();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (JsonNode raw : request.get("records")) {
            Integer partition = raw.get("partition").isNull() ? null : raw.get("partition").asInt();
            Long timestamp = raw.get("timestamp").isNull() ? null : raw.get("timestamp").asLong();
            ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(
                    topic, partition, timestamp, unpacked(raw.get("key")), unpacked(raw.get("value")));
            for (JsonNode header : raw.get("headers")) {
                record.headers().add(header.get(0).asText(), unpacked(header.get(1)));
            }
            sent.add(producer.send(record));
        }
        producer.flush();
        List<Object> outcomes = new ArrayList<>();
        for (Future<RecordMetadata> future : sent) {
            outcomes.add(outcome(future));
        }
        return outcomes;
    }

    private static Map<String, Object> outcome(Future<RecordMetadata> future) {
        try {
            RecordMetadata metadata = future.get();
            return Map.of("partition", metadata.partition(), "offset", metadata.offset());
        } catch (Exception error) {
            return Map.of("error", Agent.refusal(error));
        }
    }

    private Object openConsumer(JsonNode request) {
        JsonNode config = request.get("config");
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("key.deserializer", ByteArrayDeserializer.class);
        settings.put("value.deserializer", ByteArrayDeserializer.class);
        putIfGiven(settings, "group.id", text(config.get("group")));
        putIfGiven(settings, "group.instance.id", text(config.get("instance")));
        settings.put("auto.offset.reset", config.get("reset").asText());
        settings.put("enable.auto.commit", false);
        settings.put("fetch.max.wait.ms", config.get("max_wait_ms").asInt());
        settings.put("fetch.min.bytes", config.get("min_bytes").asInt());
        settings.put("max.partition.fetch.bytes", config.get("max_partition_bytes").asInt());
        settings.put("group.protocol", config.get("protocol").asText());
        if (config.get("protocol").asText().equals("classic")) {
            settings.put("session.timeout.ms", config.get("session_ms").asInt());
            settings.put("heartbeat.interval.ms", config.get("heartbeat_ms").asInt());
            settings.put("partition.assignment.strategy", ASSIGNORS.get(config.get("assignor").asText()));
        } else {
            putIfGiven(settings, "group.remote.assignor", text(config.get("remote_assignor")));
        }
        settings.put("allow.auto.create.topics", config.get("auto_create").asBoolean());
        settings.put("metadata.max.age.ms", config.get("metadata_ms").asInt());
        settings.put("isolation.level", config.get("isolation").asText());
        settings.put("max.poll.records", 10_000);
        settings.put("reconnect.backoff.max.ms", 500);
        Member member = new Member(new KafkaConsumer<>(settings));
        begin(member, config);
        members.put(++handles, member);
        return handles;
    }

    private static void begin(Member member, JsonNode config) {
        if (!config.get("assign").isNull()) {
            member.consumer.assign(placesOf(config.get("assign")));
        } else if (!config.get("regex").isNull()) {
            member.consumer.subscribe(new SubscriptionPattern(config.get("regex").asText()), member);
        } else if (!config.get("pattern").isNull()) {
            member.consumer.subscribe(Pattern.compile(config.get("pattern").asText()), member);
        } else {
            List<String> topics = new ArrayList<>();
            config.get("topics").forEach(topic -> topics.add(topic.asText()));
            member.consumer.subscribe(topics, member);
        }
    }

    private static void putIfGiven(Properties settings, String key, String value) {
        if (value != null) {
            settings.put(key, value);
        }
    }

    private KafkaConsumer<byte[], byte[]> consumer(JsonNode request) {
        return consumer(request.get("handle").asInt());
    }

    KafkaConsumer<byte[], byte[]> consumer(int handle) {
        return members.get(handle).consumer;
    }

    KafkaProducer<byte[], byte[]> producer(JsonNode request) {
        return producers.get(request.get("handle").asInt());
    }

    private Object poll(JsonNode request) {
        List<Object> found = new ArrayList<>();
        Duration timeout = Duration.ofMillis(request.get("timeout_ms").asLong());
        for (ConsumerRecord<byte[], byte[]> record : consumer(request).poll(timeout)) {
            Map<String, Object> stored = new LinkedHashMap<>();
            stored.put("topic", record.topic());
            stored.put("partition", record.partition());
            stored.put("offset", record.offset());
            stored.put("key", packed(record.key()));
            stored.put("value", packed(record.value()));
            List<Object> headers = new ArrayList<>();
            for (Header header : record.headers()) {
                List<Object> pair = new ArrayList<>();
                pair.add(header.key());
                pair.add(packed(header.value()));
                headers.add(pair);
            }
            stored.put("headers", headers);
            stored.put("timestamp", record.timestamp());
            stored.put("timestamp_type", switch (record.timestampType()) {
                case CREATE_TIME -> "create";
                case LOG_APPEND_TIME -> "append";
                default -> null;
            });
            found.add(stored);
        }
        return found;
    }

    private Object assignment(JsonNode request) {
        Member member = members.get(request.get("handle").asInt());
        return Map.of("partitions", places(member.consumer.assignment()), "events", member.events);
    }

    private Object commit(JsonNode request) {
        JsonNode offsets = request.get("offsets");
        if (offsets.isNull()) {
            consumer(request).commitSync();
            return null;
        }
        Map<TopicPartition, OffsetAndMetadata> wanted = new HashMap<>();
        for (JsonNode entry : offsets) {
            wanted.put(
                    new TopicPartition(entry.get(0).asText(), entry.get(1).asInt()),
                    new OffsetAndMetadata(entry.get(2).asLong(), entry.get(3).asText()));
        }
        consumer(request).commitSync(wanted);
        return null;
    }

    private Object committed(JsonNode request) {
        List<TopicPartition> wanted = placesOf(request.get("partitions"));
        Map<TopicPartition, OffsetAndMetadata> found =
                consumer(request).committed(new HashSet<>(wanted));
        List<Object> answer = new ArrayList<>();
        for (TopicPartition partition : wanted) {
            OffsetAndMetadata offset = found.get(partition);
            answer.add(offset == null ? null : List.of(offset.offset(), offset.metadata()));
        }
        return answer;
    }

    private Object seek(JsonNode request) {
        TopicPartition place = place(request);
        JsonNode offset = request.get("offset");
        if (offset.isNumber()) {
            consumer(request).seek(place, offset.asLong());
        } else if (offset.asText().equals("begin")) {
            consumer(request).seekToBeginning(List.of(place));
        } else {
            consumer(request).seekToEnd(List.of(place));
        }
        return null;
    }
}
