import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Writes ten greetings in one transaction and reads them back, with Kafka's own client: Greetings.java [TOPIC]. */
public class Greetings {
    static final String BOOTSTRAP = System.getenv().getOrDefault("BOOTSTRAP", "localhost:9092");
    static final int GREETINGS = 10;
    static final long WAIT_S = 30;

    public static void main(String[] arguments) throws Exception {
        String topic = arguments.length > 0 ? arguments[0] : "greetings";
        write(topic);
        read(topic);
    }

    static void write(String topic) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", BOOTSTRAP, "transactional.id", "greeter-" + topic);
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            producer.initTransactions();
            producer.beginTransaction();
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int n = 0; n < GREETINGS; n++) {
                sent.add(producer.send(new ProducerRecord<>(topic, "key " + n, "hello " + n)));
            }
            for (Future<RecordMetadata> one : sent) {
                one.get(WAIT_S, TimeUnit.SECONDS); // on disk, or an exception
            }
            producer.commitTransaction(); // all of them are seen, or none
        }
    }

    static void read(String topic) {
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", BOOTSTRAP,
                "group.id", "greeters-java",
                "group.protocol", "consumer",
                "isolation.level", "read_committed",
                "auto.offset.reset", "earliest",
                "enable.auto.commit", false);
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            int count = 0;
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_S);
            while (count < GREETINGS) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("only " + count + " records within " + WAIT_S + " s");
                }
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
                    System.out.printf(
                            "read %d@%d: %s = %s%n", record.partition(), record.offset(), record.key(), record.value());
                    count++;
                }
            }
            consumer.commitSync(); // the next run begins behind these
        }
    }
}
