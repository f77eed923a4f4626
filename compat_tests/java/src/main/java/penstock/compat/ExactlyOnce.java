package penstock.compat;

import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Consume, transform, produce, exactly once: each record of the source goes to the same partition of the target.
 * Arguments: bootstrap, source, target, group, transactional id, and after how many records to stop inside a
 * transaction, with everything sent and nothing committed (-1: never). Prints "open" there.
 */
public final class ExactlyOnce {
    private ExactlyOnce() {}

    public static void main(String[] arguments) throws Exception {
        String source = arguments[1];
        String target = arguments[2];
        int stopAfter = Integer.parseInt(arguments[5]);
        int done = 0;
        try (KafkaConsumer<String, String> consumer = consumer(arguments[0], arguments[3]);
                KafkaProducer<String, String> producer = producer(arguments[0], arguments[4])) {
            producer.initTransactions();
            consumer.subscribe(List.of(source));
            while (true) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) {
                    continue;
                }
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                for (ConsumerRecord<String, String> record : records) {
                    producer.send(new ProducerRecord<>(target, record.partition(), null, record.value()));
                    offsets.put(
                            new TopicPartition(source, record.partition()),
                            new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                producer.flush();
                done += records.count();
                if (stopAfter >= 0 && done >= stopAfter) {
                    System.out.println("open");
                    Thread.sleep(Long.MAX_VALUE);
                }
                producer.commitTransaction();
            }
        }
    }

    private static KafkaConsumer<String, String> consumer(String bootstrap, String group) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", group);
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", false);
        settings.put("max.poll.records", 50);
        settings.put("session.timeout.ms", 2_000);
        settings.put("heartbeat.interval.ms", 300);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static KafkaProducer<String, String> producer(String bootstrap, String id) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", id);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }
}
