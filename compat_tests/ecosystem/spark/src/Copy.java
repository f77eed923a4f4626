import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.Trigger;

/** Writes a topic's values to files: Copy BOOTSTRAP TOPIC FILES CHECKPOINTS; goes on where the checkpoints end. */
public class Copy {
    public static void main(String[] arguments) throws Exception {
        SparkSession spark = SparkSession.builder()
            .master("local[1]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .getOrCreate();
        spark.readStream()
            .format("kafka")
            .option("kafka.bootstrap.servers", arguments[0])
            .option("subscribe", arguments[1])
            .option("startingOffsets", "earliest")
            .option("maxOffsetsPerTrigger", "500")
            .option("kafka.isolation.level", "read_committed")
            .load()
            .selectExpr("CAST(value AS STRING)")
            .writeStream()
            .format("text")
            .option("path", arguments[2])
            .option("checkpointLocation", arguments[3])
            .trigger(Trigger.ProcessingTime(0))
            .start()
            .awaitTermination();
    }
}
