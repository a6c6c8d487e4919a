// Parses messages as a Lambda function does that uses Powertools for AWS Lambda (TypeScript), and prints the keys.
// Standard input: {"s3": [bodies], "eventbridge": [bodies]}; standard output: the same with keys, undecoded.
import { readFileSync } from 'node:fs';
import {
  S3EventNotificationEventBridgeSchema,
  S3Schema,
  S3SqsEventNotificationSchema,
} from '@aws-lambda-powertools/parser/schemas/s3';

const keysOf = (event) => event.Records.map((record) => record.s3.object.key);

const fromQueue = (body) => ({
  messageId: '059f36b4-87a3-44ab-83d2-661975830a7d',
  receiptHandle: 'AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a',
  body,
  attributes: {
    ApproximateReceiveCount: '1',
    SentTimestamp: '1545082649183',
    SenderId: 'AIDAIENQZJOLO23YVJ4VO',
    ApproximateFirstReceiveTimestamp: '1545082649185',
  },
  messageAttributes: {},
  md5OfBody: 'e4e68fb7bd0e697a0ae8f1bb342846b3',
  eventSource: 'aws:sqs',
  eventSourceARN: 'arn:aws:sqs:us-east-2:123456789012:my-queue',
  awsRegion: 'us-east-2',
});

const { s3, eventbridge } = JSON.parse(readFileSync(0, 'utf8'));
const queued = S3SqsEventNotificationSchema.parse({ Records: s3.map(fromQueue) });
console.log(
  JSON.stringify({
    s3: s3.flatMap((body) => keysOf(S3Schema.parse(JSON.parse(body)))),
    queued: queued.Records.flatMap((record) => keysOf(record.body)),
    eventbridge: eventbridge.map((body) => S3EventNotificationEventBridgeSchema.parse(JSON.parse(body)).detail.object.key),
  }),
);
