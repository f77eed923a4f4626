package penstock.bench;

import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.stream.EventRead;
import io.pravega.client.stream.EventStreamReader;
import io.pravega.client.stream.EventStreamWriter;
import io.pravega.client.stream.EventWriterConfig;
import io.pravega.client.stream.ReaderConfig;
import io.pravega.client.stream.ReaderGroupConfig;
import io.pravega.client.stream.ScalingPolicy;
import io.pravega.client.stream.Stream;
import io.pravega.client.stream.StreamConfiguration;
import io.pravega.client.stream.impl.ByteBufferSerializer;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/**
 * Loads Pravega with its own client. One JVM serves a whole run of the suite, so that it is warm: each line on stdin is
 * a load ({@code write stream=s size=100 ...}), each line on stdout its outcome, a JSON object.
 *
 * <p>Keeps: an event counts when its acknowledgement (burst) or the time when it was due (rate) lies in the measured
 * window; a failed event fails the load.
 */
public final class PravegaLoad {
    private static final String SCOPE = "bench";
    private static final long SECOND_NS = TimeUnit.SECONDS.toNanos(1);
    private static final int OUTSTANDING_BYTES_MAX = 32 << 20;
    private static final int OUTSTANDING_EVENTS_MAX = 100_000;
    private static final int DRAIN_SECONDS_MAX = 15;
    private static final int READ_WAIT_MS = 200;
    private static final int READ_SECONDS_MAX = 15;

    private final ClientConfig client;
    private final StreamManager streams;

    private PravegaLoad(String controller) {
        client = ClientConfig.builder().controllerURI(URI.create(controller)).build();
        streams = StreamManager.create(client);
        streams.createScope(SCOPE);
    }

    public static void main(String[] arguments) throws Exception {
        PravegaLoad load = new PravegaLoad(arguments[0]);
        System.out.println("{\"ready\": true}");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String outcome;
            try {
                outcome = load.carryOut(line);
            } catch (Exception failure) {
                outcome = String.format("{\"failure\": \"%s\"}", failure.toString().replaceAll("[\"\\\\\\n]", " "));
            }
            System.out.println(outcome);
        }
        System.exit(0);
    }

    private String carryOut(String line) throws Exception {
        String[] words = line.trim().split(" ");
        Map<String, String> options = new HashMap<>();
        for (String word : Arrays.asList(words).subList(1, words.length)) {
            options.put(word.substring(0, word.indexOf('=')), word.substring(word.indexOf('=') + 1));
        }
        String stream = options.get("stream");
        switch (words[0]) {
            case "create":
                ScalingPolicy segments = ScalingPolicy.fixed(Integer.parseInt(options.get("segments")));
                streams.createStream(SCOPE, stream, StreamConfiguration.builder().scalingPolicy(segments).build());
                return "{}";
            case "delete":
                streams.sealStream(SCOPE, stream);
                streams.deleteStream(SCOPE, stream);
                return "{}";
            case "write":
                return new Writing(stream, options).run();
            case "read":
                return read(stream, options);
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private static double real(Map<String, String> options, String name, double otherwise) {
        return Double.parseDouble(options.getOrDefault(name, String.valueOf(otherwise)));
    }

    /** Some writers, each a thread with an event writer of its own. */
    private final class Writing {
        private final String stream;
        private final int size;
        private final int writers;
        private final double rate;
        private final double seconds;
        private final long startNs = System.nanoTime();
        private final long fromNs;
        private final long untilNs;
        private final Semaphore outstanding;
        private final AtomicLong acknowledged = new AtomicLong();
        private final AtomicLong measured = new AtomicLong();
        private final AtomicLong failed = new AtomicLong();
        private final List<float[]> latenciesMs = new ArrayList<>();
        private final List<AtomicLong> counts = new ArrayList<>();

        Writing(String stream, Map<String, String> options) {
            this.stream = stream;
            size = (int) real(options, "size", 100);
            writers = (int) real(options, "writers", 1);
            rate = real(options, "rate", 0);
            seconds = real(options, "seconds", 1);
            fromNs = startNs + (long) (real(options, "warmup", 0) * SECOND_NS);
            untilNs = fromNs + (long) (seconds * SECOND_NS);
            outstanding = new Semaphore(Math.max(writers, Math.min(OUTSTANDING_EVENTS_MAX, OUTSTANDING_BYTES_MAX / size)));
        }

        String run() throws Exception {
            int permits = outstanding.availablePermits();
            try (EventStreamClientFactory factory = EventStreamClientFactory.withScope(SCOPE, client)) {
                List<Thread> threads = new ArrayList<>();
                for (int number = 0; number < writers; number++) {
                    latenciesMs.add(rate > 0 ? new float[(int) (rate * seconds / writers) + 2] : new float[0]);
                    counts.add(new AtomicLong());
                    int mine = number;
                    threads.add(new Thread(() -> write(factory, mine)));
                }
                threads.forEach(Thread::start);
                for (Thread thread : threads) {
                    thread.join();
                }
                if (!outstanding.tryAcquire(permits, DRAIN_SECONDS_MAX, TimeUnit.SECONDS)) {
                    throw new IllegalStateException("events were not acknowledged within " + DRAIN_SECONDS_MAX + " s");
                }
            }
            if (failed.get() > 0) {
                throw new IllegalStateException(failed.get() + " events failed");
            }
            return String.format(
                    Locale.ROOT,
                    "{\"records\": %d, \"seconds\": %.3f, \"acknowledged\": %d%s}",
                    measured.get(), seconds, acknowledged.get(), percentiles());
        }

        private void write(EventStreamClientFactory factory, int number) {
            byte[] letters = new byte[size];
            new Random(number).nextBytes(letters);
            EventWriterConfig config = EventWriterConfig.builder().build();
            try (EventStreamWriter<ByteBuffer> writer = factory.createEventWriter(stream, new ByteBufferSerializer(), config)) {
                for (long sent = 0; ; sent++) {
                    long due = rate > 0 ? startNs + (long) (sent * writers * SECOND_NS / rate) : System.nanoTime();
                    if (due >= untilNs) {
                        break;
                    }
                    while (due > System.nanoTime()) {
                        LockSupport.parkNanos(due - System.nanoTime());
                    }
                    outstanding.acquireUninterruptibly();
                    writer.writeEvent(ByteBuffer.wrap(letters)).whenComplete((done, failure) -> heard(number, due, failure));
                }
                writer.flush();
            }
        }

        private void heard(int number, long due, Throwable failure) {
            outstanding.release();
            if (failure != null) {
                failed.incrementAndGet();
                return;
            }
            acknowledged.incrementAndGet();
            long now = System.nanoTime();
            long counted = rate > 0 ? due : now;
            if (counted < fromNs || counted >= untilNs) {
                return;
            }
            measured.incrementAndGet();
            if (rate > 0) {
                float[] mine = latenciesMs.get(number);
                int place = (int) counts.get(number).getAndIncrement();
                if (place < mine.length) {
                    mine[place] = (now - due) / 1e6f;
                }
            }
        }

        private String percentiles() {
            if (rate <= 0) {
                return "";
            }
            int total = 0;
            for (int number = 0; number < writers; number++) {
                total += Math.min(latenciesMs.get(number).length, (int) counts.get(number).get());
            }
            float[] all = new float[total];
            int filled = 0;
            double sum = 0;
            for (int number = 0; number < writers; number++) {
                int count = Math.min(latenciesMs.get(number).length, (int) counts.get(number).get());
                System.arraycopy(latenciesMs.get(number), 0, all, filled, count);
                filled += count;
            }
            Arrays.sort(all);
            for (float ms : all) {
                sum += ms;
            }
            StringBuilder text = new StringBuilder();
            text.append(String.format(Locale.ROOT, ", \"avg_ms\": %.3f, \"max_ms\": %.3f", sum / total, all[total - 1]));
            String[] names = {"p50", "p95", "p99", "p99_9", "p99_99"};
            double[] parts = {.5, .95, .99, .999, .9999};
            for (int i = 0; i < names.length; i++) {
                text.append(String.format(Locale.ROOT, ", \"%s_ms\": %.3f", names[i], all[(int) (parts[i] * (total - 1))]));
            }
            return text.toString();
        }
    }

    /** Some readers of one group, each a thread, until so many events have come or the time is over. */
    private String read(String stream, Map<String, String> options) throws Exception {
        int readers = (int) real(options, "readers", 1);
        long count = (long) real(options, "count", 1);
        double seconds = real(options, "seconds", READ_SECONDS_MAX);
        String group = "g" + System.nanoTime();
        AtomicLong taken = new AtomicLong();
        AtomicLong firstNs = new AtomicLong();
        AtomicLong lastNs = new AtomicLong();
        long deadlineNs = System.nanoTime() + READ_SECONDS_MAX * SECOND_NS;
        try (ReaderGroupManager groups = ReaderGroupManager.withScope(SCOPE, client);
                EventStreamClientFactory factory = EventStreamClientFactory.withScope(SCOPE, client)) {
            groups.createReaderGroup(group, ReaderGroupConfig.builder().stream(Stream.of(SCOPE, stream)).build());
            List<Thread> threads = new ArrayList<>();
            for (int number = 0; number < readers; number++) {
                String name = "r" + number;
                threads.add(new Thread(() -> {
                    try (EventStreamReader<ByteBuffer> reader = factory.createReader(
                            name, group, new ByteBufferSerializer(), ReaderConfig.builder().build())) {
                        while (taken.get() < count && System.nanoTime() < deadlineNs) {
                            EventRead<ByteBuffer> event = reader.readNextEvent(READ_WAIT_MS);
                            if (event.getEvent() == null) {
                                continue;
                            }
                            long now = System.nanoTime();
                            firstNs.compareAndSet(0, now);
                            lastNs.set(now);
                            taken.incrementAndGet();
                            if (now > firstNs.get() + (long) (seconds * SECOND_NS)) {
                                break;
                            }
                        }
                    }
                }));
            }
            threads.forEach(Thread::start);
            for (Thread thread : threads) {
                thread.join();
            }
            groups.deleteReaderGroup(group);
        }
        if (taken.get() < 2) {
            throw new IllegalStateException("nothing was read within " + READ_SECONDS_MAX + " s");
        }
        double took = (lastNs.get() - firstNs.get()) / (double) SECOND_NS;
        return String.format(Locale.ROOT, "{\"records\": %d, \"seconds\": %.6f}", taken.get() - 1, took);
    }
}
