'use strict';
// Connects many Socket.IO clients to the URL given. Each has to begin with
// polling, and be upgraded to a WebSocket with the session that it has got then.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { io } = require('socket.io-client');

const [url, number] = process.argv.slice(2);
const deadline = 25_000;

async function echo(socket, message) {
  return new Promise((resolve, reject) => {
    socket.timeout(deadline).emit('echo', message, (err, got, from) => {
      if (err) return reject(err);
      if (got !== message) return reject(new Error(`got ${got}, want ${message}`));
      resolve(from);
    });
  });
}

async function connect() {
  const socket = io(url, {
    forceNew: true, // a session and cookies of its own
    reconnection: false,
    withCredentials: true, // it keeps cookies, as browsers do
  });
  const failed = new Promise((_, reject) => {
    socket.on('connect_error', reject);
    socket.on('disconnect', (reason) => reject(new Error(`disconnected: ${reason}`)));
    socket.io.engine.on('upgradeError', reject);
  });
  failed.catch(() => {}); // it is in the race below
  const upgraded = once(socket.io.engine, 'upgrade');
  await Promise.race([once(socket, 'connect'), failed]);
  const first = await Promise.race([echo(socket, 'first'), failed]);
  await Promise.race([upgraded, failed]);
  return { socket, first, failed };
}

async function use({ socket, first, failed }) {
  for (let i = 0; i < 5; i++) {
    const from = await Promise.race([echo(socket, `grüße ${i}`), failed]);
    assert.deepEqual(from, { ...first, began: 'polling', transport: 'websocket' });
  }
}

async function main() {
  const clients = await Promise.all(Array.from({ length: Number(number) }, connect));
  await Promise.all(clients.map(use)); // while all are connected
  for (const { socket } of clients) socket.disconnect();
}

setTimeout(() => {
  console.error('not done in time');
  process.exit(1);
}, deadline).unref();

main().then(() => {}, (err) => {
  console.error(err);
  process.exit(1);
});
