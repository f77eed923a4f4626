"""Write ten greetings and read them back, with aiokafka: with_aiokafka.py [TOPIC]"""

import asyncio
import os
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

BOOTSTRAP = os.environ.get("BOOTSTRAP", "localhost:9092")
GREETINGS = 10
WAIT_S = 30


async def write(topic: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, enable_idempotence=True) as producer:
        sent = [await producer.send(topic, key=b"key %d" % n, value=b"hello %d" % n) for n in range(GREETINGS)]
        await asyncio.gather(*sent)  # on disk, or an exception


async def read(topic: str) -> None:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=BOOTSTRAP,
        group_id="greeters-aiokafka",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer, asyncio.timeout(WAIT_S):
        for _ in range(GREETINGS):
            record = await consumer.getone()
            print(f"read {record.partition}@{record.offset}: {record.key.decode()} = {record.value.decode()}")
        await consumer.commit()  # the next run begins behind these


async def main(topic: str) -> None:
    await write(topic)
    await read(topic)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "greetings"))
