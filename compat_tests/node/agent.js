/**
 * kafkajs behind the line protocol: one JSON request per line, one answer per line, served strictly in order.
 *
 * kafkajs consumes in the background; what it hands over waits in a queue until the scenario polls.
 */
"use strict";

const readline = require("node:readline");
const {
  Kafka,
  CompressionCodecs,
  CompressionTypes,
  ConfigResourceTypes,
  AssignerProtocol,
  Partitioners,
  logLevel,
} = require("kafkajs");
const lz4 = require("lz4-napi");
const snappy = require("snappyjs");
const { ZstdCodec } = require("zstd-codec");

// The streaming codec: a frame need not say how large its contents are.
const zstd = new Promise((resolve) => ZstdCodec.run((loaded) => resolve(new loaded.Streaming())));
const XERIAL_MAGIC = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0x00]);

/** The Java client frames snappy in blocks (xerial); librdkafka sends one bare block. */
function unsnapped(data) {
  if (!data.subarray(0, 8).equals(XERIAL_MAGIC)) return Buffer.from(snappy.uncompress(data));
  const blocks = [];
  for (let at = 16; at < data.length; ) {
    const size = data.readInt32BE(at);
    blocks.push(Buffer.from(snappy.uncompress(data.subarray(at + 4, at + 4 + size))));
    at += 4 + size;
  }
  return Buffer.concat(blocks);
}

CompressionCodecs[CompressionTypes.Snappy] = () => ({
  compress: async (encoder) => Buffer.from(snappy.compress(encoder.buffer)),
  decompress: async (data) => unsnapped(data),
});
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: (encoder) => lz4.compressFrame(encoder.buffer),
  decompress: (data) => lz4.decompressFrame(data),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from((await zstd).compress(encoder.buffer)),
  decompress: async (data) => Buffer.from((await zstd).decompress(data)),
});

const COMPRESSION = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
};
const RESOURCES = { topic: ConfigResourceTypes.TOPIC, broker: ConfigResourceTypes.BROKER };

const kafka = new Kafka({
  clientId: "kafkajs",
  brokers: [process.argv[2]],
  logLevel: logLevel.WARN,
  logCreator: () => ({ namespace, log }) =>
    process.stderr.write(`${log.timestamp} ${namespace} ${log.message} ${JSON.stringify(log)}\n`),
  connectionTimeout: 5000,
  requestTimeout: 25000,
  retry: { initialRetryTime: 100, maxRetryTime: 1000, retries: 20 },
});

const packed = (data) => (data === null || data === undefined ? null : data.toString("base64"));
const unpacked = (text) => (text === null ? null : Buffer.from(text, "base64"));

const handles = new Map();
let nextHandle = 0;

function keep(thing) {
  handles.set(++nextHandle, thing);
  return nextHandle;
}

let connectedAdmin = null;
async function admin() {
  if (connectedAdmin === null) {
    connectedAdmin = kafka.admin({ retry: { initialRetryTime: 100, maxRetryTime: 500, retries: 8 } });
    await connectedAdmin.connect();
  }
  return connectedAdmin;
}

// ---- producing

async function openProducer({ config }) {
  const placed = new Map();
  const choose = Partitioners.DefaultPartitioner();
  const producer = kafka.producer({
    idempotent: config.idempotent,
    maxInFlightRequests: config.idempotent ? 1 : null,
    transactionTimeout: config.transaction_timeout_ms,
    ...(config.transactional_id === null ? {} : { transactionalId: config.transactional_id }),
    createPartitioner: () => (request) => {
      const partition = choose(request);
      placed.set(request.message, partition);
      return partition;
    },
  });
  await producer.connect();
  return keep({ producer, placed, config, transaction: null });
}

/** kafkajs answers one base offset per partition: a record's own is that plus its place among its fellows. */
async function produce({ handle, topic, records }) {
  const { producer, placed, config, transaction } = handles.get(handle);
  placed.clear();
  const messages = records.map(({ key, value, headers, partition, timestamp }) => ({
    key: unpacked(key),
    value: unpacked(value),
    headers: grouped(headers),
    ...(partition === null ? {} : { partition }),
    ...(timestamp === null ? {} : { timestamp: String(timestamp) }),
  }));
  let answers;
  try {
    answers = await (transaction ?? producer).send({
      topic,
      messages,
      acks: config.acks === "all" ? -1 : config.acks,
      compression: COMPRESSION[config.compression],
      timeout: config.request_timeout_ms,
    });
  } catch (error) {
    return messages.map(() => ({ error: refusal(error) }));
  }
  const next = new Map(answers.map((a) => [a.partition, Number(a.baseOffset)]));
  return messages.map((message) => {
    const partition = placed.get(message) ?? message.partition ?? -1;
    if (!next.has(partition)) return { partition: -1, offset: -1 }; // acks=0
    const offset = next.get(partition);
    next.set(partition, offset + 1);
    return { partition, offset };
  });
}

async function beginTransaction({ handle }) {
  const sender = handles.get(handle);
  sender.transaction = await sender.producer.transaction();
}

async function endTransaction(handle, how) {
  const { transaction } = handles.get(handle);
  handles.get(handle).transaction = null;
  await transaction[how]();
}

/** kafkajs has no call for it: an empty transaction makes it ask for its producer id. */
async function initTransactions({ handle }) {
  await beginTransaction({ handle });
  await endTransaction(handle, "abort");
}

async function sendOffsets({ handle, group, offsets }) {
  const topics = [...new Set(offsets.map(([topic]) => topic))].map((topic) => ({
    topic,
    partitions: offsets
      .filter((entry) => entry[0] === topic)
      .map(([, partition, offset]) => ({ partition, offset: String(offset) })),
  }));
  await handles.get(handle).transaction.sendOffsets({ consumerGroupId: group, topics });
}

function grouped(headers) {
  const found = {};
  for (const [name, value] of headers) {
    const next = unpacked(value);
    found[name] = name in found ? [].concat(found[name], next) : next;
  }
  return found;
}

// ---- consuming

class Member {
  constructor(config) {
    this.queue = [];
    this.wake = () => {};
    this.events = [];
    this.assigned = [];
    this.positions = new Map();
    this.epoch = new Map();
    this.group = config.group;
    this.consumer = kafka.consumer({
      groupId: config.group,
      sessionTimeout: config.session_ms,
      heartbeatInterval: config.heartbeat_ms,
      rebalanceTimeout: 20000,
      maxWaitTimeInMs: config.max_wait_ms,
      minBytes: config.min_bytes,
      maxBytesPerPartition: config.max_partition_bytes,
      allowAutoTopicCreation: config.auto_create,
      metadataMaxAge: config.metadata_ms,
      readUncommitted: config.isolation === "read_uncommitted",
    });
    const { GROUP_JOIN, REBALANCING } = this.consumer.events;
    this.consumer.on(GROUP_JOIN, ({ payload }) => {
      this.assigned = Object.entries(payload.memberAssignment).flatMap(([topic, partitions]) =>
        partitions.map((partition) => [topic, partition]),
      );
      this.events.push(["assigned", this.assigned]);
    });
    this.consumer.on(REBALANCING, () => {
      this.events.push(["revoked", this.assigned]);
      this.assigned = [];
      this.queue = [];
      this.positions.clear();
    });
  }

  async start(config) {
    await this.consumer.connect();
    const topics = config.pattern ? [new RegExp(config.pattern)] : config.topics;
    await this.consumer.subscribe({ topics, fromBeginning: config.reset === "earliest" });
    await this.consumer.run({
      autoCommit: false,
      partitionsConsumedConcurrently: 8,
      eachBatchAutoResolve: false,
      eachBatch: async ({ batch, resolveOffset, isStale, isRunning }) => {
        if (isStale() || !isRunning()) return;
        for (const message of batch.messages) {
          this.queue.push({ ...message, topic: batch.topic, partition: batch.partition });
          resolveOffset(message.offset);
        }
        this.wake();
      },
    });
  }

  take() {
    const found = this.queue;
    this.queue = [];
    for (const m of found) this.positions.set(`${m.partition} ${m.topic}`, Number(m.offset) + 1);
    return found;
  }
}

function stored(message) {
  const headers = Object.entries(message.headers ?? {}).flatMap(([name, values]) =>
    [].concat(values).map((value) => [name, packed(value)]),
  );
  return {
    topic: message.topic,
    partition: message.partition,
    offset: Number(message.offset),
    key: packed(message.key),
    value: packed(message.value),
    headers,
    timestamp: Number(message.timestamp),
    timestamp_type: null,
  };
}

async function openConsumer({ config }) {
  const member = new Member(config);
  await member.start(config);
  return keep(member);
}

async function poll({ handle, timeout_ms: timeoutMs }) {
  const member = handles.get(handle);
  if (member.queue.length === 0) {
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      member.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    member.wake = () => {};
  }
  return member.take().map(stored);
}

async function commit({ handle, offsets }) {
  const member = handles.get(handle);
  const wanted =
    offsets === null
      ? [...member.positions].map(([place, offset]) => {
          const gap = place.indexOf(" ");
          return {
            topic: place.slice(gap + 1),
            partition: Number(place.slice(0, gap)),
            offset: String(offset),
          };
        })
      : offsets.map(([topic, partition, offset, metadata]) => ({
          topic,
          partition,
          offset: String(offset),
          metadata,
        }));
  await member.consumer.commitOffsets(wanted);
}

/** kafkajs gives up where the coordinator has moved or is loading: ask again for it, with a bound. */
async function patiently(ask) {
  for (let tries = 1; ; tries++) {
    try {
      return await ask();
    } catch (error) {
      if (tries === 50 || ![14, 15, 16].includes(refusal(error).code)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

async function committedOffsets(group, places) {
  const topics = places && [...new Set(places.map(([topic]) => topic))];
  const request = { groupId: group, ...(topics ? { topics } : {}) };
  const found = await patiently(async () => (await admin()).fetchOffsets(request));
  return found.flatMap(({ topic, partitions }) =>
    partitions.map(({ partition, offset, metadata }) => ({
      topic,
      partition,
      offset: Number(offset),
      metadata,
    })),
  );
}

async function committed({ handle, partitions }) {
  const found = await committedOffsets(handles.get(handle).group, partitions);
  return partitions.map(([topic, partition]) => {
    const entry = found.find((e) => e.topic === topic && e.partition === partition);
    return entry === undefined || entry.offset < 0 ? null : [entry.offset, entry.metadata ?? ""];
  });
}

async function seek({ handle, topic, partition, offset }) {
  const member = handles.get(handle);
  const [low, high] = typeof offset === "number" ? [0, 0] : await bounds(topic, partition);
  const target = offset === "begin" ? low : offset === "end" ? high : offset;
  member.queue = member.queue.filter((m) => m.topic !== topic || m.partition !== partition);
  member.positions.set(`${partition} ${topic}`, target);
  member.consumer.seek({ topic, partition, offset: String(target) });
}

// ---- administering

async function bounds(topic, partition) {
  const found = await (await admin()).fetchTopicOffsets(topic);
  const entry = found.find((e) => e.partition === partition);
  return [Number(entry.low), Number(entry.high)];
}

async function listOffset([topic, partition, at]) {
  if (at === -2) return (await bounds(topic, partition))[0];
  if (at === -1) return (await bounds(topic, partition))[1];
  // kafkajs answers the end where no record is that young: ask whether there is one at all.
  const found = await (await admin()).fetchTopicOffsetsByTimestamp(topic, at);
  const offset = Number(found.find((e) => e.partition === partition).offset);
  return offset === (await bounds(topic, partition))[1] ? null : offset;
}

async function createTopics({ topics, validate_only: validateOnly }) {
  const created = await (await admin()).createTopics({
    validateOnly,
    waitForLeaders: false, // the scenarios wait for the topic themselves, and validating makes none
    topics: topics.map(({ name, partitions, replication, configs }) => ({
      topic: name,
      numPartitions: partitions,
      replicationFactor: replication,
      configEntries: Object.entries(configs).map(([key, value]) => ({ name: key, value })),
    })),
  });
  // kafkajs answers false, and throws nothing, where the topic is there already.
  if (!created) throw Object.assign(new Error("the topic exists"), { code: 36 });
}

async function describeConfig({ kind, name }) {
  const { resources } = await (await admin()).describeConfigs({
    includeSynonyms: false,
    resources: [{ type: RESOURCES[kind], name }],
  });
  return Object.fromEntries(
    resources[0].configEntries.map((entry) => [
      entry.configName,
      { value: entry.configValue, default: entry.configSource === 5 || entry.isDefault },
    ]),
  );
}

/** kafkajs has only the older AlterConfigs, which replaces all: what is to be default is just left out. */
async function alterConfig({ kind, name, changes }) {
  const configEntries = Object.entries(changes)
    .filter(([, value]) => value !== null)
    .map(([key, value]) => ({ name: key, value }));
  await (await admin()).alterConfigs({
    validateOnly: false,
    resources: [{ type: RESOURCES[kind], name, configEntries }],
  });
}

async function deleteRecords({ topic, offsets }) {
  await (await admin()).deleteTopicRecords({
    topic,
    partitions: offsets.map(([partition, offset]) => ({ partition, offset: String(offset) })),
  });
  const lows = await Promise.all(
    offsets.map(async ([partition]) => [partition, (await bounds(topic, partition))[0]]),
  );
  return Object.fromEntries(lows);
}

async function describeGroup({ group }) {
  const { groups } = await (await admin()).describeGroups([group]);
  const [{ errorCode, state, protocol, members }] = groups;
  if (errorCode) throw Object.assign(new Error(`group ${group}`), { code: errorCode });
  return {
    state,
    protocol,
    members: members.map(({ clientId, memberAssignment }) => ({
      client_id: clientId,
      instance: null,
      assignment: Object.entries(
        memberAssignment.length ? AssignerProtocol.MemberAssignment.decode(memberAssignment).assignment : {},
      ).flatMap(([topic, partitions]) => partitions.map((partition) => [topic, partition])),
    })),
  };
}

async function groupOffsets({ group }) {
  const found = await committedOffsets(group, null);
  return found.filter((e) => e.offset >= 0).map((e) => [e.topic, e.partition, e.offset]);
}

async function alterGroupOffsets({ group, offsets }) {
  for (const topic of new Set(offsets.map((entry) => entry[0]))) {
    const own = offsets.filter((entry) => entry[0] === topic);
    await (await admin()).setOffsets({
      groupId: group,
      topic,
      partitions: own.map(([, partition, offset]) => ({ partition, offset: String(offset) })),
    });
  }
}

const OPERATIONS = {
  producer_open: openProducer,
  produce,
  member: ({ handle }) => handle, // kafkajs passes only the group's name on
  transaction_init: initTransactions,
  transaction_begin: beginTransaction,
  transaction_offsets: sendOffsets,
  transaction_commit: ({ handle }) => endTransaction(handle, "commit"),
  transaction_abort: ({ handle }) => endTransaction(handle, "abort"),
  producer_close: ({ handle }) => handles.get(handle).producer.disconnect(),
  consumer_open: openConsumer,
  poll,
  assignment: ({ handle }) => ({
    partitions: handles.get(handle).assigned,
    events: handles.get(handle).events,
  }),
  commit,
  committed,
  position: ({ handle, topic, partition }) =>
    handles.get(handle).positions.get(`${partition} ${topic}`),
  seek,
  consumer_close: ({ handle }) => handles.get(handle).consumer.disconnect(),
  list_offsets: async ({ queries }) => {
    const found = [];
    for (const query of queries) found.push(await listOffset(query));
    return found;
  },
  create_topics: createTopics,
  delete_topics: async ({ names }) => (await admin()).deleteTopics({ topics: names }),
  create_partitions: async ({ topic, total }) =>
    (await admin()).createPartitions({ topicPartitions: [{ topic, count: total }] }),
  list_topics: async () => (await admin()).listTopics(),
  partition_count: async ({ topic }) => {
    const { topics } = await (await admin()).fetchTopicMetadata({ topics: [topic] });
    return topics[0].partitions.length;
  },
  describe_config: describeConfig,
  alter_config: alterConfig,
  delete_records: deleteRecords,
  list_groups: async () => (await (await admin()).listGroups()).groups.map((g) => g.groupId),
  describe_group: describeGroup,
  delete_group: async ({ group }) => (await admin()).deleteGroups([group]),
  group_offsets: groupOffsets,
  alter_group_offsets: alterGroupOffsets,
};

/** kafkajs wraps what the server said in errors of its own: dig for Kafka's number. */
function refusal(error) {
  for (let cause = error; cause; cause = cause.cause ?? cause.errors?.[0] ?? cause.groups?.[0]) {
    const code = cause.code ?? cause.errorCode ?? cause.error?.code;
    if (typeof code === "number") return { code, name: cause.type ?? cause.name, message: error.message };
  }
  return { code: null, name: error.name, message: error.message };
}

async function answer(line) {
  const { op, ...request } = JSON.parse(line);
  try {
    return { ok: (await OPERATIONS[op](request)) ?? null };
  } catch (error) {
    process.stderr.write(`${error.stack}\n`);
    return { error: refusal(error) };
  }
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await answer(line))}\n`);
  }
  process.exit(0); // clients left open by a failed scenario must not hold the process up
}

main();
