package penstock.compat;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TimeoutException;

/** The Java producer's transactions. */
final class Transactions {
    private static final int TRIES_MAX = 4;

    private final Records records;
    private final List<ConsumerGroupMetadata> members = new ArrayList<>();

    Transactions(Records records) {
        this.records = records;
    }

    void register(Map<String, Agent.Operation> operations) {
        operations.put("transaction_init", request -> patiently(() -> {
            records.producer(request).initTransactions();
            return null;
        }));
        operations.put("transaction_begin", request -> {
            records.producer(request).beginTransaction();
            return null;
        });
        operations.put("member", request -> {
            members.add(records.consumer(request.get("handle").asInt()).groupMetadata());
            return members.size() - 1;
        });
        operations.put("transaction_offsets", this::sendOffsets);
        operations.put("transaction_commit", request -> patiently(() -> {
            records.producer(request).commitTransaction();
            return null;
        }));
        operations.put("transaction_abort", request -> patiently(() -> {
            records.producer(request).abortTransaction();
            return null;
        }));
    }

    /** After a time-out the Java producer wants the same call again, and nothing else. */
    private static Object patiently(Callable<Object> call) throws Exception {
        for (int tries = 1; ; tries++) {
            try {
                return call.call();
            } catch (TimeoutException error) {
                if (tries == TRIES_MAX) {
                    throw error;
                }
            }
        }
    }

    private Object sendOffsets(JsonNode request) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        for (JsonNode entry : request.get("offsets")) {
            offsets.put(
                    new TopicPartition(entry.get(0).asText(), entry.get(1).asInt()),
                    new OffsetAndMetadata(entry.get(2).asLong()));
        }
        records.producer(request).sendOffsetsToTransaction(
                offsets, members.get(request.get("member").asInt()));
        return null;
    }
}
