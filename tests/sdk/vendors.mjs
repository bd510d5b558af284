// Vendors' official SDKs for Node through relay; called by vendors.py, prints what was seen.
//
//     node vendors.mjs stripe PORT TOKEN          a listener of its own: the SDK takes host and port alone
//     node vendors.mjs s3 ENDPOINT TOKEN BYTES    an upload out of a stream, whose length is known
import { Readable } from "node:stream";
import { S3Client, PutObjectCommand } from "@aws-sdk/client-s3";
import Stripe from "stripe";

const A_PIECE = Buffer.alloc(65536, "relay");

async function stripe(port, token) {
  const client = new Stripe(token, { host: "127.0.0.1", port, protocol: "http", maxNetworkRetries: 0 });
  const made = await client.customers.create({ email: "a@example.com" });
  const found = await client.customers.list({ limit: 3 }).autoPagingToArray({ limit: 10 });
  return `${made.id} created, ${found.length} listed`;
}

async function s3(endpoint, sessionToken, bytes) {
  const client = new S3Client({
    endpoint,
    region: "us-east-1",
    forcePathStyle: true,
    maxAttempts: 1,
    // relay signs with the customer's keys; these sign what relay throws away.
    credentials: { accessKeyId: "unused", secretAccessKey: "unused", sessionToken },
  });
  const pieces = function* () {
    for (let left = Number(bytes); left > 0; left -= A_PIECE.length) yield A_PIECE.subarray(0, left);
  };
  const put = new PutObjectCommand({
    Bucket: "b",
    Key: "folder/a name.bin",
    Body: Readable.from(pieces()),
    ContentLength: Number(bytes),
  });
  const answer = await client.send(put);
  return `put of ${bytes} bytes: ${answer.$metadata.httpStatusCode}`;
}

const [what, ...given] = process.argv.slice(2);
console.log(await { stripe, s3 }[what](...given));
