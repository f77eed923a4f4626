package penstock.compat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.common.utils.Exit;

/**
 * Kafka's command-line tools, each run by its own main method inside this JVM: what it prints and how it
 * would have exited is the answer. "BOOTSTRAP" among the arguments stands for the server's address.
 */
final class Tools {
    /** Thrown where a tool would have ended the process; some catch it and exit once more, with 1. */
    private static final class Ended extends RuntimeException {
        Ended(int status) {
            super("exit " + status);
        }
    }

    private final String bootstrap;

    Tools(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    void register(Map<String, Agent.Operation> operations) {
        operations.put("tool", this::run);
    }

    private Object run(JsonNode request) throws Exception {
        List<String> arguments = new ArrayList<>();
        request.get("arguments").forEach(a -> arguments.add(a.asText().replace("BOOTSTRAP", bootstrap)));
        byte[] input = request.get("input").asText().getBytes(StandardCharsets.UTF_8);
        ByteArrayOutputStream output = new ByteArrayOutputStream();
        ByteArrayOutputStream errors = new ByteArrayOutputStream();
        InputStream systemIn = System.in;
        PrintStream systemOut = System.out;
        PrintStream systemErr = System.err;
        System.setIn(new ByteArrayInputStream(input));
        System.setOut(new PrintStream(output, true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(errors, true, StandardCharsets.UTF_8));
        AtomicReference<Integer> first = new AtomicReference<>();
        Exit.Procedure ends = (status, message) -> {
            first.compareAndSet(null, status);
            throw new Ended(status);
        };
        Exit.setExitProcedure(ends);
        Exit.setHaltProcedure(ends);
        List<Runnable> hooks = new ArrayList<>(); // the console producer sends its last records in one
        Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
        try {
            int status = main(request.get("name").asText(), arguments.toArray(new String[0]));
            hooks.forEach(Runnable::run);
            return Map.of(
                    "status", first.get() == null ? status : first.get(),
                    "output", output.toString(StandardCharsets.UTF_8),
                    "errors", errors.toString(StandardCharsets.UTF_8));
        } finally {
            Exit.resetExitProcedure();
            Exit.resetHaltProcedure();
            Exit.resetShutdownHookAdder();
            System.setIn(systemIn);
            System.setOut(systemOut);
            System.setErr(systemErr);
        }
    }

    private static int main(String tool, String[] arguments) throws Exception {
        try {
            Class.forName(tool).getMethod("main", String[].class).invoke(null, (Object) arguments);
            return 0;
        } catch (InvocationTargetException error) {
            error.getCause().printStackTrace();
            return 1;
        }
    }
}
