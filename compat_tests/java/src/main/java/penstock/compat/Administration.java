package penstock.compat;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.DeletedRecords;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.MemberDescription;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionListing;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;

/** The Java admin client. */
final class Administration {
    private final String bootstrap;
    private Admin admin;

    Administration(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    void register(Map<String, Agent.Operation> operations) {
        operations.put("list_offsets", this::listOffsets);
        operations.put("stable_end", request -> {
            TopicPartition place = Records.place(request);
            return admin()
                    .listOffsets(
                            Map.of(place, OffsetSpec.latest()),
                            new ListOffsetsOptions(IsolationLevel.READ_COMMITTED))
                    .partitionResult(place).get().offset();
        });
        operations.put("list_transactions", request -> {
            Map<String, Object> found = new HashMap<>();
            for (TransactionListing entry : admin().listTransactions().all().get()) {
                found.put(entry.transactionalId(), entry.state().toString());
            }
            return found;
        });
        operations.put("describe_transaction", this::describeTransaction);
        operations.put("describe_producers", this::describeProducers);
        operations.put("abort_open_transaction", request -> {
            JsonNode producer = request.get("producer");
            return admin().abortTransaction(new AbortTransactionSpec(
                    Records.place(request),
                    producer.get("producer_id").asLong(),
                    (short) producer.get("epoch").asInt(),
                    producer.get("coordinator_epoch").asInt())).all().get();
        });
        operations.put("create_topics", this::createTopics);
        operations.put("delete_topics", request -> {
            Set<String> names = new HashSet<>();
            request.get("names").forEach(name -> names.add(name.asText()));
            return admin().deleteTopics(names).all().get();
        });
        operations.put("create_partitions", request -> admin()
                .createPartitions(Map.of(
                        request.get("topic").asText(), NewPartitions.increaseTo(request.get("total").asInt())))
                .all().get());
        operations.put("list_topics", request -> admin().listTopics().names().get());
        operations.put("partition_count", request -> {
            String topic = request.get("topic").asText();
            return admin().describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size();
        });
        operations.put("describe_config", this::describeConfig);
        operations.put("alter_config", this::alterConfig);
        operations.put("delete_records", this::deleteRecords);
        operations.put("list_groups", request -> {
            List<String> found = new ArrayList<>();
            for (GroupListing group : admin().listGroups().all().get()) {
                found.add(group.groupId());
            }
            return found;
        });
        operations.put("describe_group", this::describeGroup);
        operations.put("delete_group", request -> admin()
                .deleteConsumerGroups(List.of(request.get("group").asText())).all().get());
        operations.put("group_offsets", this::groupOffsets);
        operations.put("alter_group_offsets", this::alterGroupOffsets);
        operations.put("delete_group_offsets", request -> admin()
                .deleteConsumerGroupOffsets(
                        request.get("group").asText(),
                        new HashSet<>(Records.placesOf(request.get("partitions"))))
                .all().get());
    }

    private Admin admin() {
        if (admin == null) {
            Properties settings = new Properties();
            settings.put("bootstrap.servers", bootstrap);
            settings.put("default.api.timeout.ms", 20_000);
            settings.put("request.timeout.ms", 10_000);
            settings.put("reconnect.backoff.max.ms", 500);
            admin = Admin.create(settings);
        }
        return admin;
    }

    private Object listOffsets(JsonNode request) throws Exception {
        List<Object> found = new ArrayList<>();
        for (JsonNode query : request.get("queries")) {
            TopicPartition place = new TopicPartition(query.get(0).asText(), query.get(1).asInt());
            long at = query.get(2).asLong();
            OffsetSpec spec = at == -1 ? OffsetSpec.latest()
                    : at == -2 ? OffsetSpec.earliest()
                    : at == -3 ? OffsetSpec.maxTimestamp()
                    : at == -4 ? OffsetSpec.earliestLocal()
                    : at == -5 ? OffsetSpec.latestTiered() : OffsetSpec.forTimestamp(at);
            long offset = admin().listOffsets(Map.of(place, spec)).partitionResult(place).get().offset();
            found.add(offset < 0 ? null : offset);
        }
        return found;
    }

    private Object describeTransaction(JsonNode request) throws Exception {
        String id = request.get("transactional_id").asText();
        TransactionDescription found =
                admin().describeTransactions(List.of(id)).description(id).get();
        return Map.of(
                "state", found.state().toString(),
                "producer_id", found.producerId(),
                "epoch", found.producerEpoch(),
                "timeout_ms", found.transactionTimeoutMs(),
                "partitions", Records.places(found.topicPartitions()));
    }

    private Object describeProducers(JsonNode request) throws Exception {
        TopicPartition place = Records.place(request);
        List<Object> found = new ArrayList<>();
        for (ProducerState state :
                admin().describeProducers(List.of(place)).partitionResult(place).get().activeProducers()) {
            Map<String, Object> described = new HashMap<>();
            described.put("producer_id", state.producerId());
            described.put("epoch", state.producerEpoch());
            described.put("sequence", state.lastSequence());
            described.put("coordinator_epoch", state.coordinatorEpoch().orElse(-1));
            described.put("start", state.currentTransactionStartOffset().isPresent()
                    ? state.currentTransactionStartOffset().getAsLong() : null);
            found.add(described);
        }
        return found;
    }

    private Object createTopics(JsonNode request) throws Exception {
        List<NewTopic> topics = new ArrayList<>();
        for (JsonNode raw : request.get("topics")) {
            int partitions = raw.get("partitions").asInt();
            short replication = (short) raw.get("replication").asInt();
            NewTopic topic = new NewTopic(
                    raw.get("name").asText(),
                    partitions == -1 ? Optional.empty() : Optional.of(partitions),
                    replication == -1 ? Optional.empty() : Optional.of(replication));
            Map<String, String> configs = new HashMap<>();
            raw.get("configs").properties().forEach(e -> configs.put(e.getKey(), e.getValue().asText()));
            topics.add(topic.configs(configs));
        }
        CreateTopicsOptions options =
                new CreateTopicsOptions().validateOnly(request.get("validate_only").asBoolean());
        return admin().createTopics(topics, options).all().get();
    }

    private static ConfigResource resource(JsonNode request) {
        ConfigResource.Type type = request.get("kind").asText().equals("topic")
                ? ConfigResource.Type.TOPIC : ConfigResource.Type.BROKER;
        return new ConfigResource(type, request.get("name").asText());
    }

    private Object describeConfig(JsonNode request) throws Exception {
        ConfigResource resource = resource(request);
        Map<String, Object> found = new LinkedHashMap<>();
        for (ConfigEntry entry : admin().describeConfigs(List.of(resource)).all().get().get(resource).entries()) {
            Map<String, Object> described = new HashMap<>();
            described.put("value", entry.value());
            described.put("default", entry.isDefault());
            found.put(entry.name(), described);
        }
        return found;
    }

    private Object alterConfig(JsonNode request) throws Exception {
        Collection<AlterConfigOp> changes = new ArrayList<>();
        for (Map.Entry<String, JsonNode> change : request.get("changes").properties()) {
            boolean delete = change.getValue().isNull();
            changes.add(new AlterConfigOp(
                    new ConfigEntry(change.getKey(), delete ? null : change.getValue().asText()),
                    delete ? AlterConfigOp.OpType.DELETE : AlterConfigOp.OpType.SET));
        }
        return admin().incrementalAlterConfigs(Map.of(resource(request), changes)).all().get();
    }

    private Object deleteRecords(JsonNode request) throws Exception {
        String topic = request.get("topic").asText();
        Map<TopicPartition, RecordsToDelete> wanted = new HashMap<>();
        for (JsonNode entry : request.get("offsets")) {
            wanted.put(
                    new TopicPartition(topic, entry.get(0).asInt()),
                    RecordsToDelete.beforeOffset(entry.get(1).asLong()));
        }
        Map<String, Object> found = new HashMap<>();
        for (Map.Entry<TopicPartition, KafkaFuture<DeletedRecords>> result :
                admin().deleteRecords(wanted).lowWatermarks().entrySet()) {
            found.put(String.valueOf(result.getKey().partition()), result.getValue().get().lowWatermark());
        }
        return found;
    }

    private Object describeGroup(JsonNode request) throws Exception {
        String group = request.get("group").asText();
        ConsumerGroupDescription found = admin().describeConsumerGroups(List.of(group)).all().get().get(group);
        List<Object> members = new ArrayList<>();
        for (MemberDescription member : found.members()) {
            Map<String, Object> described = new HashMap<>();
            described.put("client_id", member.clientId());
            described.put("instance", member.groupInstanceId().orElse(null));
            described.put("assignment", Records.places(member.assignment().topicPartitions()));
            members.add(described);
        }
        return Map.of(
                "state", found.groupState().toString(),
                "protocol", found.partitionAssignor(),
                "members", members);
    }

    private Object groupOffsets(JsonNode request) throws Exception {
        List<Object> found = new ArrayList<>();
        admin().listConsumerGroupOffsets(request.get("group").asText())
                .partitionsToOffsetAndMetadata().get()
                .forEach((place, offset) ->
                        found.add(List.of(place.topic(), place.partition(), offset.offset())));
        return found;
    }

    private Object alterGroupOffsets(JsonNode request) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> wanted = new HashMap<>();
        for (JsonNode entry : request.get("offsets")) {
            wanted.put(
                    new TopicPartition(entry.get(0).asText(), entry.get(1).asInt()),
                    new OffsetAndMetadata(entry.get(2).asLong()));
        }
        return admin().alterConsumerGroupOffsets(request.get("group").asText(), wanted).all().get();
    }
}
