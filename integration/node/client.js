'use strict';
// Talks to one of the servers of servers_test.go at the URL given, and fails if
// anything is not as it should be. With http2 as another argument, all WebSockets
// share a connection of Node's own HTTP/2.

const assert = require('node:assert/strict');
const { createHash, randomBytes } = require('node:crypto');
const { once } = require('node:events');
const WebSocket = require('ws');
const http2 = require('./http2.js');

const [url, over] = process.argv.slice(2);
const deadline = 25_000;

let shared; // the connection of HTTP/2

// create makes a WebSocket that opens when start has been called.
async function create({ subprotocols = [], compress = false }) {
  const maxPayload = 64 << 20;
  if (shared) return shared.open({ subprotocols, compress, maxPayload });
  const ws = new WebSocket(url, subprotocols, { perMessageDeflate: compress, maxPayload });
  return { ws, start() {} };
}

// open connects; the messages that come are queued for receive.
async function open(options = {}) {
  const { ws, start } = await create(options);
  const queue = [];
  let wanted = null;
  ws.on('message', (data, isBinary) => {
    queue.push({ data, isBinary });
    if (wanted) wanted();
  });
  ws.receive = async () => {
    if (queue.length === 0) await new Promise((resolve) => { wanted = resolve; });
    return queue.shift();
  };
  const opened = once(ws, 'open');
  start();
  await opened;
  return ws;
}

async function expectEcho(ws, data, isBinary) {
  const got = await ws.receive();
  assert.equal(got.isBinary, isBinary);
  assert.equal(digest(got.data), digest(data));
}

const digest = (data) => createHash('sha256').update(data).digest('hex');

async function echo(ws, data, options = {}) {
  const isBinary = typeof data !== 'string';
  ws.send(data, { binary: isBinary, ...options });
  await expectEcho(ws, data, isBinary);
}

async function messages() {
  const ws = await open({ subprotocols: ['chat.v1', 'chat.v2'] });
  assert.equal(ws.protocol, 'chat.v2');
  assert.equal(ws.extensions, '');
  await echo(ws, '');
  await echo(ws, 'text: \u{1f984} ü');
  await echo(ws, randomBytes(126));
  await echo(ws, randomBytes(70_000));
  ws.send('frag', { fin: false });
  ws.send('men', { fin: false });
  ws.send('ted', { fin: true });
  await expectEcho(ws, 'fragmented', false);
  await echo(ws, randomBytes(16 << 20));
  ws.close(1000);
  await once(ws, 'close');
}

async function compressed() {
  const ws = await open({ compress: { threshold: 0 } });
  assert.match(ws.extensions, /permessage-deflate/);
  const text = randomBytes(300).toString('hex');
  for (let i = 0; i < 20; i++) await echo(ws, text);
  await echo(ws, text, { compress: false });
  ws.close(1000);
  await once(ws, 'close');
}

async function pings() {
  const ws = await open();
  const pong = once(ws, 'pong');
  ws.ping('from the client');
  assert.equal((await pong)[0].toString(), 'from the client');

  const pinged = once(ws, 'ping');
  ws.send('!ping server');
  await pinged;
  await expectEcho(ws, '!pong server', false);
  ws.close(1000);
  await once(ws, 'close');
}

async function closes() {
  for (const [code, reason] of [[1000, ''], [1001, 'bye'], [4000, 'grund ü']]) {
    const ours = await open();
    ours.close(code, reason);
    assert.equal((await once(ours, 'close'))[0], code);

    const theirs = await open();
    theirs.send(`!close ${code} ${reason}`);
    const [gotCode, gotReason] = await once(theirs, 'close');
    assert.equal(gotCode, code);
    assert.equal(gotReason.toString(), reason);
  }
}

async function main() {
  if (over === 'http2') shared = await http2.connect(url);
  for (const scenario of [messages, compressed, pings, closes]) {
    const timer = setTimeout(() => {
      console.error(`${scenario.name} took too long`);
      process.exit(1);
    }, deadline);
    await scenario();
    clearTimeout(timer);
  }
  if (shared) shared.close();
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
