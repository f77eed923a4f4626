"""Write ten greetings and read them back, with kafka-python: with_kafka_python.py [TOPIC]"""

import os
import sys

from kafka import KafkaConsumer, KafkaProducer

BOOTSTRAP = os.environ.get("BOOTSTRAP", "localhost:9092")
GREETINGS = 10
WAIT_S = 30


def write(topic: str) -> None:
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", compression_type="gzip")
    sent = [producer.send(topic, key=b"key %d" % n, value=b"hello %d" % n) for n in range(GREETINGS)]
    for one in sent:
        one.get(timeout=WAIT_S)  # on disk, or an exception
    producer.close()


def read(topic: str) -> None:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=BOOTSTRAP,
        group_id="greeters-kafka-python",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        consumer_timeout_ms=WAIT_S * 1000,
    )
    count = 0
    for record in consumer:
        print(f"read {record.partition}@{record.offset}: {record.key.decode()} = {record.value.decode()}")
        count += 1
        if count == GREETINGS:
            break
    consumer.commit()  # the next run begins behind these
    consumer.close()
    if count < GREETINGS:
        sys.exit(f"only {count} records within {WAIT_S} s")


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "greetings"
    write(name)
    read(name)
