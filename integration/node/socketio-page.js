'use strict';
// Opens the page of socketio-server.js in a browser, as a new visitor each time,
// and uses Socket.IO there. Arguments: the browser and the page's URL.

const assert = require('node:assert/strict');
const { withBrowser } = require('./browser.js');

const visitors = 4;

// converse runs in the page. It connects, and says who is there when a WebSocket
// is open: the page, the session, and the page again.
function converse(options) {
  const address = async () => /<title>(.*)<\/title>/.exec(await (await fetch('/')).text())[1];
  return new Promise((resolve, reject) => {
    const socket = io(options);
    const finish = () => socket.emit('echo', '', async (_, from) => resolve({ ...from, after: await address() }));
    if (options.transports) socket.on('connect', finish);
    else socket.io.engine.on('upgrade', finish);
    socket.io.engine.on('upgradeError', reject);
    socket.on('connect_error', reject);
    socket.on('disconnect', reject);
  });
}

async function visit(browser, url, options, began) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  await page.goto(url);
  // With what the page has got, its session has begun; without, it begins now.
  const before = await page.title();
  if (options.transports) await context.clearCookies();
  const got = await page.evaluate(converse, options);
  assert.equal(got.transport, 'websocket');
  assert.equal(got.began, began);
  assert.equal(got.after, got.address);
  if (!options.transports) assert.equal(before, got.address);
  await context.close();
}

async function main([executablePath, url]) {
  await withBrowser(executablePath, async (browser) => {
    for (let i = 0; i < visitors; i++) {
      await visit(browser, url, { reconnection: false }, 'polling');
      await visit(browser, url, { reconnection: false, transports: ['websocket'] }, 'websocket');
    }
  });
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err);
  process.exit(1);
});
