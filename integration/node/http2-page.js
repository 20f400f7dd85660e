'use strict';
// Opens WebSockets from a page in a browser, and makes sure from the browser's log
// of the network that they shared the page's connection of HTTP/2. Arguments: the
// browser, the site, and a file for the log.

const assert = require('node:assert/strict');
const { readFileSync } = require('node:fs');
const { withBrowser } = require('./browser.js');
const { converse } = require('./converse.js');

// sessions tells, of each HTTP/2 connection in the log, how often a page and a
// WebSocket were asked for.
function sessions(file) {
  const log = JSON.parse(readFileSync(file));
  const sent = log.constants.logEventTypes.HTTP2_SESSION_SEND_HEADERS;
  const counts = new Map();
  for (const { type, source, params } of log.events) {
    if (type !== sent) continue;
    const count = counts.get(source.id) || { pages: 0, sockets: 0 };
    if (params.headers.includes(':protocol: websocket')) count.sockets++;
    if (params.headers.includes(':path: /page')) count.pages++;
    counts.set(source.id, count);
  }
  return [...counts.values()];
}

async function main([executablePath, site, log]) {
  await withBrowser(executablePath, async (browser) => {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    await page.goto(`${site}/page`);
    await page.evaluate(converse);
  }, [`--log-net-log=${log}`]);
  assert.deepEqual(sessions(log), [{ pages: 1, sockets: 3 }]);
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err);
  process.exit(1);
});
