import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AccessControlEntryFilter;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.metrics.Metrics;
import org.apache.kafka.common.metrics.internals.PluginMetricsImpl;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourcePatternFilter;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.metadata.authorizer.StandardAcl;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;
import org.apache.kafka.server.authorizer.AuthorizationResult;

/** Asks Kafka's StandardAuthorizer: a case is a JSON line on stdin, its answers are one on stdout. */
public class Authorizer {
    record Asker(KafkaPrincipal principal, InetAddress address) implements AuthorizableRequestContext {
        @Override public String listenerName() { return "PLAINTEXT"; }
        @Override public SecurityProtocol securityProtocol() { return SecurityProtocol.PLAINTEXT; }
        @Override public InetAddress clientAddress() { return address; }
        @Override public int requestType() { return 0; }
        @Override public int requestVersion() { return 0; }
        @Override public String clientId() { return "x"; }
        @Override public int correlationId() { return 0; }
    }

    public static void main(String[] arguments) throws Exception {
        ObjectMapper json = new ObjectMapper();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line; (line = lines.readLine()) != null; ) {
            System.out.println(json.writeValueAsString(answer(json, json.readTree(line))));
        }
    }

    private static ObjectNode answer(ObjectMapper json, JsonNode given) throws Exception {
        StandardAuthorizer authorizer = new StandardAuthorizer();
        Map<String, Object> configs = new HashMap<>();
        configs.put("super.users", given.get("super_users").asText());
        configs.put("allow.everyone.if.no.acl.found", given.get("open").asText());
        configs.put("node.id", "1");
        authorizer.configure(configs);
        authorizer.withPluginMetrics(new PluginMetricsImpl(new Metrics(), Map.of()));
        Map<Uuid, StandardAcl> acls = new LinkedHashMap<>();
        for (JsonNode acl : given.get("acls")) acls.put(Uuid.randomUuid(), StandardAcl.fromAclBinding(binding(acl)));
        authorizer.loadSnapshot(acls);
        authorizer.completeInitialLoad();
        ObjectNode answer = json.createObjectNode();
        ArrayNode decisions = answer.putArray("asked");
        for (JsonNode asked : given.get("asked")) decisions.add(decided(authorizer, asked));
        ArrayNode found = answer.putArray("filters");
        for (JsonNode filter : given.get("filters")) {
            ArrayNode some = found.addArray();
            for (AclBinding one : authorizer.acls(filter(filter))) some.add(told(json, one));
        }
        authorizer.close();
        return answer;
    }

    private static boolean decided(StandardAuthorizer authorizer, JsonNode asked) throws Exception {
        Asker asker = new Asker(
            new KafkaPrincipal(asked.get(0).asText(), asked.get(1).asText()),
            InetAddress.getByName(asked.get(2).asText()));
        AclOperation operation = AclOperation.fromCode((byte) asked.get(3).asInt());
        ResourceType type = ResourceType.fromCode((byte) asked.get(4).asInt());
        if (asked.get(5).isNull()) {
            return authorizer.authorizeByResourceType(asker, operation, type) == AuthorizationResult.ALLOWED;
        }
        ResourcePattern resource = new ResourcePattern(type, asked.get(5).asText(), PatternType.LITERAL);
        Action action = new Action(operation, resource, 1, false, false);
        return authorizer.authorize(asker, List.of(action)).get(0) == AuthorizationResult.ALLOWED;
    }

    private static AclBinding binding(JsonNode acl) {
        return new AclBinding(
            new ResourcePattern(
                ResourceType.fromCode((byte) acl.get(0).asInt()),
                acl.get(1).asText(),
                PatternType.fromCode((byte) acl.get(2).asInt())),
            new AccessControlEntry(
                acl.get(3).asText(),
                acl.get(4).asText(),
                AclOperation.fromCode((byte) acl.get(5).asInt()),
                AclPermissionType.fromCode((byte) acl.get(6).asInt())));
    }

    private static String orNull(JsonNode text) {
        return text.isNull() ? null : text.asText();
    }

    private static AclBindingFilter filter(JsonNode filter) {
        return new AclBindingFilter(
            new ResourcePatternFilter(
                ResourceType.fromCode((byte) filter.get(0).asInt()),
                orNull(filter.get(1)),
                PatternType.fromCode((byte) filter.get(2).asInt())),
            new AccessControlEntryFilter(
                orNull(filter.get(3)),
                orNull(filter.get(4)),
                AclOperation.fromCode((byte) filter.get(5).asInt()),
                AclPermissionType.fromCode((byte) filter.get(6).asInt())));
    }

    private static ArrayNode told(ObjectMapper json, AclBinding acl) {
        ArrayNode row = json.createArrayNode();
        row.add(acl.pattern().resourceType().code()).add(acl.pattern().name()).add(acl.pattern().patternType().code());
        row.add(acl.entry().principal()).add(acl.entry().host());
        return row.add(acl.entry().operation().code()).add(acl.entry().permissionType().code());
    }
}
