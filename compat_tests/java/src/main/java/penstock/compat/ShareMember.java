package penstock.compat;

import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * A member of a share group. Told to be explicit, it settles each record as its value begins: accept, release, reject, or renew
 * and, when the next poll gives it again, accept. Prints "got VALUE DELIVERIES" of each record, and "done VALUE" once what it
 * said is stored. A record whose value begins with kill ends its process at once, whatever else it holds. Arguments: address,
 * group, topic, acquire mode, explicit or implicit. Ends with its standard input.
 */
public class ShareMember {
    private static final int KILLED = 137;
    private static final Set<String> RENEWED = new HashSet<>();

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        properties.put("group.id", arguments[1]);
        properties.put("share.acquire.mode", arguments[3]);
        properties.put("share.acknowledgement.mode", arguments[4]);
        properties.put("max.poll.records", "20");
        boolean isExplicit = arguments[4].equals("explicit");
        try (KafkaShareConsumer<String, String> member =
                new KafkaShareConsumer<>(properties, new StringDeserializer(), new StringDeserializer())) {
            member.subscribe(List.of(arguments[2]));
            while (System.in.available() == 0) {
                var records = member.poll(Duration.ofMillis(200));
                for (ConsumerRecord<String, String> record : records) {
                    System.out.println("got " + record.value() + " " + record.deliveryCount().orElse((short) -1));
                    if (record.value().startsWith("kill-")) {
                        System.out.flush();
                        Runtime.getRuntime().halt(KILLED);
                    }
                    if (isExplicit) {
                        member.acknowledge(record, said(record.value()));
                    }
                }
                System.out.flush();
                for (Optional<?> failed : member.commitSync().values()) {
                    if (failed.isPresent()) {
                        throw new IllegalStateException(failed.get().toString());
                    }
                }
                records.forEach(record -> System.out.println("done " + record.value()));
                System.out.flush();
            }
        }
    }

    private static AcknowledgeType said(String value) {
        return switch (value.substring(0, value.indexOf('-'))) {
            case "release" -> AcknowledgeType.RELEASE;
            case "reject" -> AcknowledgeType.REJECT;
            case "renew" -> RENEWED.add(value) ? AcknowledgeType.RENEW : AcknowledgeType.ACCEPT;
            default -> AcknowledgeType.ACCEPT;
        };
    }
}
