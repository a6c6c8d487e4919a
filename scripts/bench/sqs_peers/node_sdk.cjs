// Sends messages with the AWS SDK for JavaScript, 64 batches in flight. It verifies MD5s, as it does unasked.
//
// NODE_PATH=…/node_modules node node_sdk.cjs QUEUE_URL BODIES MESSAGES

const fs = require("node:fs");
const readline = require("node:readline");
const { Agent } = require("node:https");
const { GetQueueAttributesCommand, SendMessageBatchCommand, SQSClient } = require("@aws-sdk/client-sqs");

const IN_FLIGHT = 64;
const BATCH = 10;

async function firstLines(path, count) {
  const lines = [];
  for await (const line of readline.createInterface({ input: fs.createReadStream(path) })) {
    lines.push(line);
    if (lines.length === count) break;
  }
  return lines;
}

async function main(queueUrl, path, messages) {
  const bodies = await firstLines(path, Number(messages));
  const httpsAgent = new Agent({ keepAlive: true, maxSockets: IN_FLIGHT });
  const client = new SQSClient({ endpoint: new URL(queueUrl).origin, requestHandler: { httpsAgent } });
  await client.send(new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: ["All"] }));

  let next = 0;
  let sent = 0;
  async function send() {
    while (next < bodies.length) {
      const batch = bodies.slice(next, (next += BATCH));
      const Entries = batch.map((body, nth) => ({ Id: String(nth), MessageBody: body }));
      const answer = await client.send(new SendMessageBatchCommand({ QueueUrl: queueUrl, Entries }));
      sent += answer.Successful.length;
    }
  }

  const started = performance.now();
  const before = process.cpuUsage();
  await Promise.all(Array.from({ length: IN_FLIGHT }, send));
  const { user, system } = process.cpuUsage(before);
  const wall = (performance.now() - started) / 1000;
  console.log(JSON.stringify({ messages: sent, wall, cpu: (user + system) / 1e6 }));
  client.destroy();
}

main(...process.argv.slice(2));
