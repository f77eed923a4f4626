"""Write ten greetings and read them back, with confluent-kafka: with_confluent_kafka.py [TOPIC]"""

import os
import sys
import time

from confluent_kafka import Consumer, KafkaException, Message, Producer

BOOTSTRAP = os.environ.get("BOOTSTRAP", "localhost:9092")
GREETINGS = 10
WAIT_S = 30


def acknowledged(error: object, message: Message) -> None:
    if error is not None:
        raise KafkaException(error)


def write(topic: str) -> None:
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True, "compression.type": "zstd"})
    for n in range(GREETINGS):
        producer.produce(topic, key=f"key {n}", value=f"hello {n}", on_delivery=acknowledged)
    if producer.flush(WAIT_S):  # on disk, or an exception
        sys.exit(f"not acknowledged within {WAIT_S} s")


def read(topic: str) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": "greeters-confluent-kafka",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    count = 0
    deadline = time.monotonic() + WAIT_S
    while count < GREETINGS:
        record = consumer.poll(1.0)
        if time.monotonic() > deadline:
            sys.exit(f"only {count} records within {WAIT_S} s")
        if record is None:
            continue
        if record.error():
            raise KafkaException(record.error())
        print(f"read {record.partition()}@{record.offset()}: {record.key().decode()} = {record.value().decode()}")
        count += 1
    consumer.commit(asynchronous=False)  # the next run begins behind these
    consumer.close()


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "greetings"
    write(name)
    read(name)
