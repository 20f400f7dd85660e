'use strict';
// Opens WebSockets from a page in Firefox, which is told what to do by WebDriver BiDi.
// Arguments: the browser, an empty folder for its profile, and the site.

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const { createInterface } = require('node:readline');
const { writeFileSync } = require('node:fs');
const { join } = require('node:path');
const WebSocket = require('ws');
const { converse } = require('./converse.js');

// listening is where the browser says that it can be told what to do.
async function listening(browser) {
  for await (const line of createInterface({ input: browser.stderr })) {
    const found = /^WebDriver BiDi listening on (ws:\S+)/.exec(line);
    if (found) return found[1];
  }
  throw new Error('Firefox has ended');
}

async function remote(url) {
  const ws = new WebSocket(`${url}/session`);
  await once(ws, 'open');
  const waiting = new Map();
  ws.on('message', (data) => {
    const { id, type, result, error, message } = JSON.parse(data);
    if (!waiting.has(id)) return; // an event
    const { resolve, reject } = waiting.get(id);
    if (type === 'success') resolve(result);
    else reject(new Error(`${error}: ${message}`));
  });
  let last = 0;
  return (method, params = {}) => new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject });
    ws.send(JSON.stringify({ id: last, method, params }));
  });
}

async function use(browser, site) {
  const command = await remote(await listening(browser));
  await command('session.new', { capabilities: { alwaysMatch: { acceptInsecureCerts: true } } });
  const { context } = await command('browsingContext.create', { type: 'tab' });
  await command('browsingContext.navigate', { context, url: `${site}/page`, wait: 'complete' });
  const { type, exceptionDetails } = await command('script.callFunction', {
    functionDeclaration: converse.toString(), awaitPromise: true, target: { context },
  });
  if (type !== 'success') throw new Error(exceptionDetails.text);
  await command('browser.close');
}

async function main([executablePath, profile, site]) {
  // It would look for updates, and more: a proxy that is not there keeps it from all
  // hosts but this one.
  writeFileSync(join(profile, 'user.js'), [
    ['network.http.http3.enable', false],
    ['network.proxy.type', 1],
    ['network.proxy.http', '"127.0.0.1"'],
    ['network.proxy.http_port', 9],
    ['network.proxy.ssl', '"127.0.0.1"'],
    ['network.proxy.ssl_port', 9],
  ].map(([name, value]) => `user_pref("${name}", ${value});\n`).join(''));
  const browser = spawn(executablePath,
    ['--headless', '--no-remote', '--profile', profile, '--remote-debugging-port', '0'],
    { env: { ...process.env, HOME: profile }, stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(browser, 'exit');
  try {
    await use(browser, site);
  } finally {
    browser.kill();
    await ended;
  }
}

main(process.argv.slice(2)).then(() => process.exit(0), (err) => {
  console.error(err);
  process.exit(1);
});
