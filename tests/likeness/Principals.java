import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HexFormat;
import javax.security.auth.x500.X500Principal;
import org.apache.kafka.common.security.ssl.SslPrincipalMapper;

/** Asks Kafka's SslPrincipalMapper: a case is a JSON line on stdin, its answer is one on stdout. */
public class Principals {
    public static void main(String[] arguments) throws Exception {
        ObjectMapper json = new ObjectMapper();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line; (line = lines.readLine()) != null; ) {
            System.out.println(json.writeValueAsString(answer(json.readTree(line))));
        }
    }

    /** With rules: the user, or why there is none. Else: the text of a name that is given in DER. */
    private static String answer(JsonNode given) {
        if (given.has("der"))
            return new X500Principal(HexFormat.of().parseHex(given.get("der").asText())).getName();
        SslPrincipalMapper mapper;
        try {
            mapper = SslPrincipalMapper.fromRules(given.get("rules").asText());
        } catch (Exception error) {
            return "refuses the rules";
        }
        try {
            return "is " + mapper.getName(given.get("name").asText());
        } catch (Exception error) {
            return "has no rule";
        }
    }
}
