import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Map;
import java.util.Properties;
import kafka.server.ControllerConfigurationValidator;
import kafka.server.KafkaConfig;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.coordinator.group.GroupConfig;
import org.apache.kafka.server.metrics.ClientMetricsConfigs;
import org.apache.kafka.storage.internals.log.LogConfig;

/**
 * Asks Kafka's own validators. Reads lines of KIND TAB KEY TAB VALUE, prints each with a tab and what is wrong with it (or
 * nothing). Lines of KIND alone print a line of KIND TAB KEY TAB TYPE TAB DEFAULT for each key of the kind.
 */
public class Ranges {
    private static final Map<String, String> BASE = Map.of(
        "process.roles", "broker,controller",
        "node.id", "1",
        "controller.listener.names", "CONTROLLER",
        "controller.quorum.voters", "1@localhost:9093",
        "listeners", "PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093",
        "listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs", "/tmp/nowhere");

    private static final Map<String, ConfigResource.Type> RESOURCES = Map.of(
        "topic", ConfigResource.Type.TOPIC,
        "group", ConfigResource.Type.GROUP,
        "client-metrics", ConfigResource.Type.CLIENT_METRICS);

    public static void main(String[] arguments) throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] parts = line.split("\t", -1);
            if (parts.length == 1) {
                keysOf(parts[0]);
            } else {
                System.out.println(line + "\t" + verdict(parts[0], parts[1], parts[2]));
            }
        }
    }

    private static void keysOf(String kind) {
        ConfigDef definition = switch (kind) {
            case "topic" -> LogConfig.configDefCopy();
            case "group" -> GroupConfig.CONFIG_DEF;
            case "client-metrics" -> ClientMetricsConfigs.configDef();
            default -> KafkaConfig.configDef();
        };
        for (ConfigDef.ConfigKey key : definition.configKeys().values()) {
            String value = ConfigDef.convertToString(key.hasDefault() ? key.defaultValue : null, key.type);
            System.out.println(kind + "\t" + key.name + "\t" + key.type + "\t" + (value == null ? "" : value));
        }
    }

    private static String verdict(String kind, String key, String value) {
        try {
            Properties properties = new Properties();
            properties.putAll(BASE);
            if (kind.equals("broker")) {
                properties.put(key, value);
                KafkaConfig.fromProps(properties, false);
            } else if (kind.equals("cluster")) {
                KafkaConfig config = KafkaConfig.fromProps(properties, false);
                config.dynamicConfig().initialize(scala.Option.empty());
                Properties changed = new Properties();
                changed.put(key, value);
                config.dynamicConfig().validate(changed, false);
            } else {
                KafkaConfig config = KafkaConfig.fromProps(properties, false);
                ConfigResource resource = new ConfigResource(RESOURCES.get(kind), "x");
                new ControllerConfigurationValidator(config).validate(resource, Map.of(key, value), Map.of());
            }
            return "";
        } catch (Throwable refused) {
            return String.valueOf(refused.getMessage()).replaceAll("\\s+", " ");
        }
    }
}
