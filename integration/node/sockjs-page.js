'use strict';
// Opens the page of sockjs-server.js in a browser, as several visitors, and uses SockJS
// there. Arguments: the browser, the page's URL, and how many visitors.

const assert = require('node:assert/strict');
const { withBrowser } = require('./browser.js');

const messages = 5;

// converse runs in the page. It sends one message after another, and returns the answers.
function converse([transport, messages]) {
  return new Promise((resolve, reject) => {
    const answers = [];
    const socket = new SockJS('/echo', null, { transports: [transport] });
    socket.onopen = () => socket.send('0');
    socket.onclose = ({ code, reason }) => reject(new Error(`closed: ${code} ${reason}`));
    socket.onmessage = ({ data }) => {
      answers.push(JSON.parse(data));
      if (answers.length < messages) return socket.send(String(answers.length));
      socket.onclose = () => resolve(answers);
      socket.close();
    };
  });
}

async function open(browser, url) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(url);
  return { page, address: await page.title() };
}

// use has a session by each transport, with a request about the server first. What the
// others than the first one send and receive are requests of one session.
async function use({ page, address }) {
  for (const transport of ['websocket', 'xhr-polling', 'xhr-streaming']) {
    const answers = await page.evaluate(converse, [transport, messages]);
    assert.deepEqual(answers.map(({ message }) => message), Array.from({ length: messages }, (_, i) => String(i)));
    for (const from of answers) assert.deepEqual([from.protocol, from.address], [transport, address]);
  }
}

async function main([executablePath, url, number]) {
  await withBrowser(executablePath, async (browser) => {
    const visitors = await Promise.all(Array.from({ length: Number(number) }, () => open(browser, url)));
    await Promise.all(visitors.map(use));
  });
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err);
  process.exit(1);
});
