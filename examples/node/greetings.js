// Writes ten greetings and reads them back, with kafkajs: node greetings.js [TOPIC]
"use strict";

const { Kafka, logLevel } = require("kafkajs");

const BOOTSTRAP = process.env.BOOTSTRAP || "localhost:9092";
const GREETINGS = 10;
const WAIT_MS = 30_000;

async function write(kafka, topic) {
  const producer = kafka.producer({ idempotent: true });
  await producer.connect();
  const messages = Array.from({ length: GREETINGS }, (_, n) => ({ key: `key ${n}`, value: `hello ${n}` }));
  await producer.send({ topic, acks: -1, messages }); // on disk, or an exception
  await producer.disconnect();
}

async function read(kafka, topic) {
  const consumer = kafka.consumer({ groupId: "greeters-node" });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  let count = 0;
  let timer;
  await new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`only ${count} records within ${WAIT_MS / 1000} s`)), WAIT_MS);
    consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        console.log(`read ${partition}@${message.offset}: ${message.key} = ${message.value}`);
        const next = (BigInt(message.offset) + 1n).toString();
        await consumer.commitOffsets([{ topic, partition, offset: next }]); // the next run begins behind these
        count += 1;
        if (count === GREETINGS) resolve();
      },
    }).catch(reject);
  });
  clearTimeout(timer);
  await consumer.disconnect();
}

async function main() {
  const topic = process.argv[2] || "greetings";
  const kafka = new Kafka({ clientId: "greeter", brokers: [BOOTSTRAP], logLevel: logLevel.ERROR });
  await write(kafka, topic);
  await read(kafka, topic);
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
