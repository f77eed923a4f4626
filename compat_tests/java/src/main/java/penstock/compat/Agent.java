package penstock.compat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.common.protocol.Errors;

/**
 * Kafka's own Java clients and tools behind the line protocol: one JSON request per line, one answer per line.
 * One JVM serves a whole table of scenarios, because starting one costs more than most scenarios.
 */
public final class Agent {
    static final ObjectMapper JSON = new ObjectMapper();

    interface Operation {
        Object run(JsonNode request) throws Exception;
    }

    private final Map<String, Operation> operations = new HashMap<>();

    private Agent(String bootstrap) {
        Records records = new Records(bootstrap);
        records.register(operations);
        new Transactions(records).register(operations);
        new Administration(bootstrap).register(operations);
        new Tools(bootstrap).register(operations);
    }

    private Map<String, Object> answer(String line) {
        Map<String, Object> answer = new LinkedHashMap<>();
        try {
            JsonNode request = JSON.readTree(line);
            Operation operation = operations.get(request.get("op").asText());
            answer.put("ok", operation.run(request));
        } catch (Throwable error) {
            error.printStackTrace();
            answer.put("error", refusal(error));
        }
        return answer;
    }

    /** Kafka's error number wherever the exception has one (-1 means none has). */
    static Map<String, Object> refusal(Throwable error) {
        Throwable cause = error;
        while ((cause instanceof ExecutionException || cause instanceof CompletionException)
                && cause.getCause() != null) {
            cause = cause.getCause();
        }
        short code = Errors.forException(cause).code();
        Map<String, Object> refusal = new LinkedHashMap<>();
        refusal.put("code", code == Errors.UNKNOWN_SERVER_ERROR.code() ? null : code);
        refusal.put("name", cause.getClass().getSimpleName());
        refusal.put("message", String.valueOf(cause.getMessage()));
        return refusal;
    }

    public static void main(String[] arguments) throws Exception {
        // Tools print to System.out: the answers keep the original standard output to themselves.
        PrintStream answers =
                new PrintStream(new FileOutputStream(FileDescriptor.out), false, StandardCharsets.UTF_8);
        System.setOut(System.err);
        Agent agent = new Agent(arguments[0]);
        BufferedReader requests =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            answers.println(JSON.writeValueAsString(agent.answer(line)));
            answers.flush();
        }
        Runtime.getRuntime().halt(0); // clients left open by a failed scenario must not hold the process up
    }
}
