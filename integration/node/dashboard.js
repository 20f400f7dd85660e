// Uses the dashboard as operators would. Arguments: the browser, the page's URL, that of
// the admin API, a page of another origin, and two upstreams. Prints a word when others
// have to do something, and "done" at the end.
const http = require('node:http');
const { json } = require('node:stream/consumers');
const { withBrowser } = require('./browser.js');

const httpCredentials = { username: 'alice', password: 'secret' };

// What is not bounded by itself, such as a script in a page, is by this.
let step = 'begin';
setTimeout(() => {
  console.log('failed', `stuck: ${step}`);
  process.exit(1);
}, 120000).unref();

async function main([executablePath, url, admin, stranger, first, second]) {
  // Caddy refuses what looks like a script of a page, as fetch does.
  const api = (what) => new Promise((resolve, reject) => {
    http.get(`${admin}/websocket_proxy/${what}`, (response) => json(response).then(resolve, reject)).on('error', reject);
  });
  const upstream = async (address) => (await api('upstreams')).upstreams.find((u) => u.address === address);
  const until = async (what, ok) => {
    for (const began = Date.now(); !(await ok());) {
      if (Date.now() - began > 15000) throw new Error(`waited in vain until ${what}`);
      await new Promise((go) => { setTimeout(go, 50); });
    }
  };
  await withBrowser(executablePath, async (browser) => {
    const open = async () => {
      const context = await browser.newContext({ httpCredentials });
      const page = await context.newPage();
      page.setDefaultTimeout(15000);
      page.on('pageerror', (err) => { throw err; });
      page.on('console', (m) => {
        if (/Content.Security|Refused/.test(m.text())) throw new Error(m.text());
      });
      page.on('dialog', () => { throw new Error('hostile text has run'); });
      await page.goto(url);
      await page.locator('#banner[data-level=good]').waitFor();
      return page;
    };
    const row = (page, address) => page.locator('#upstreams tbody tr').filter({ hasText: address });
    const asks = async (page, address, state) => {
      await row(page, address).getByRole('button', { name: state, exact: true }).click();
      return page.locator('#ask').innerText();
    };
    const same = (what, got, want) => {
      if (String(got) !== String(want)) throw new Error(`${what}: ${got}, want ${want}`);
    };
    const page = await open();
    const late = await open(); // of somebody who has not looked for a while

    // Numbers are those of the admin API.
    step = 'numbers';
    const { total } = await api('tunnels');
    same('tunnels that are open', await page.locator('#open').innerText(), total);
    for (const address of [first, second]) {
      same(`tunnels at ${address}`, (await row(page, address).locator('.meter').innerText()).trim(), (await upstream(address)).tunnels);
    }

    // What clients say does nothing.
    step = 'hostile labels';
    await page.locator('#tunnels summary').click();
    await page.locator('#tunnels tbody').getByText('<img src=x onerror=alert(1)>').first().waitFor();
    same('pictures', await page.locator('img, main script').count(), 0);
    await page.getByLabel('Search').fill('room=quiet');
    await page.locator('#tunnels-count').getByText('1 tunnel of').waitFor();

    // Somebody else's page gets nothing done, by a script or a form.
    step = 'another origin';
    const other = await page.context().newPage();
    await other.goto(stranger);
    await other.evaluate(async ([to, address]) => {
      const body = JSON.stringify({ upstream: address, state: 'drain', seen: 'ready' });
      const signal = AbortSignal.timeout(5000); // a question for a password has nobody to answer it
      await fetch(`${to}state`, { method: 'POST', mode: 'no-cors', credentials: 'include', body, signal }).catch(() => {});
      await fetch(`${to}state`, {
        method: 'POST', credentials: 'include', body, signal, headers: { 'Content-Type': 'application/json', 'X-Websocket-Dashboard': '1' },
      }).catch(() => {});
    }, [url, first]);
    step = 'a form of another origin';
    const posted = other.waitForResponse((r) => r.request().method() === 'POST');
    await other.evaluate(([to]) => {
      document.body.innerHTML = `<form method="post" action="${to}state" enctype="text/plain"><input name='{"state":"drain","x":"' value='"}'></form>`;
      setTimeout(() => document.forms[0].submit(), 0); // which ends the page, and with it who calls
    }, [url]);
    await posted;
    step = 'a link of another origin';
    await other.goto(`${url}state?upstream=${first}&state=drain`).catch(() => {});
    same('the state', (await upstream(first)).state, 'ready');

    // A drain is followed until nothing is left.
    step = 'a drain';
    await late.getByRole('button', { name: 'Pause' }).click();
    const changes = [];
    page.on('request', (r) => { if (r.method() !== 'GET') changes.push(r.url()); });
    await asks(page, first, 'drain');
    await page.getByRole('button', { name: 'Drain', exact: true }).click();
    await page.locator('#going').getByText(first).waitFor();
    await page.locator('#going').getByText('Set by alice').waitFor();
    same('who has set it', (await upstream(first)).by, 'alice');

    // Somebody else has looked before.
    step = 'two operators';
    await asks(late, first, 'evict');
    await late.getByRole('button', { name: 'Evict', exact: true }).click();
    await late.locator('#ask-problem').getByText('its state is drain now, set by alice').waitFor();
    await late.getByRole('button', { name: 'Cancel' }).click();
    same('the state', (await upstream(first)).state, 'drain');

    console.log('leave');
    await page.locator('#going').getByText('empty', { exact: false }).and(page.locator('#going *')).first().waitFor();
    await until('the first upstream is empty', async () => (await upstream(first)).tunnels === 0);
    await page.locator('#going').filter({ hasText: `${first} drain empty` }).waitFor();

    // The set has grown since it was shown.
    step = 'a set that has grown';
    await page.getByRole('button', { name: 'Pause' }).click();
    const before = (await upstream(second)).tunnels;
    console.log('come');
    await until('tunnels have come', async () => (await upstream(second)).tunnels > before);
    const said = await asks(page, second, 'evict');
    if (!said.includes(`will cut ${before} client`)) throw new Error(`it says ${said}`);
    await page.getByRole('button', { name: 'Evict', exact: true }).click();
    await page.locator('#ask-problem').getByText('tunnels now, not').waitFor();
    same('the state', (await upstream(second)).state, 'ready');
    await page.getByRole('button', { name: 'Cancel' }).click();

    // Going back does nothing again, and shows what is.
    step = 'back';
    await page.getByRole('button', { name: 'Paused' }).click();
    const done = changes.length;
    await page.goto('about:blank');
    await page.goBack();
    await row(page, first).getByText('drain', { exact: true }).first().waitFor();
    same('changes', changes.length, done);
    await asks(page, first, 'ready');
    await page.getByRole('button', { name: 'Make ready' }).click();
    await until('it is ready', async () => (await upstream(first)).state === 'ready');

    // Nobody at all gets in, and it is taken back.
    step = 'closed to everybody';
    await row(page, first).getByText('usable', { exact: true }).first().waitFor();
    const shut = await asks(page, first, 'maint');
    if (!shut.includes('whoever comes')) throw new Error(`it says ${shut}`);
    await page.getByRole('button', { name: 'Close it', exact: true }).click();
    await until('it is closed', async () => (await upstream(first)).state === 'maint');
    await page.locator('#going').filter({ hasText: `${first} maint` }).waitFor();
    await row(page, first).locator('.state').getByText('maint', { exact: true }).waitFor();
    await asks(page, first, 'ready');
    await page.getByRole('button', { name: 'Make ready' }).click();
    await until('it is ready again', async () => (await upstream(first)).state === 'ready');

    // A page that is older than the server, which was upgraded meanwhile, says so: one that
    // is open, and one whose first question the new server has answered.
    step = 'an older page';
    const upgraded = (as) => async (route) => {
      const { 'if-none-match': _, ...headers } = route.request().headers();
      const response = await route.fetch({ headers });
      await route.fulfill({ response, json: as(await response.json()) });
    };
    const older = () => page.locator('#verdict').getByText('This page is older than the server').waitFor();
    await page.route('**/summary', upgraded((summary) => ({ ...summary, version: 'another' })));
    await older();
    await page.reload();
    await older();
    step = 'an older page that understands nothing';
    await page.unroute('**/summary');
    await page.route('**/summary', upgraded(() => ({ version: 'another' })));
    await page.reload();
    await older();
    await page.unroute('**/summary');
    await page.getByRole('button', { name: 'Load it again' }).click();
    await page.locator('#banner[data-level=good]').waitFor();
    step = 'closing the browser';
  });
  console.log('done');
}

main(process.argv.slice(2)).catch((err) => {
  console.log('failed', String(err.stack).replaceAll('\n', ' '));
  process.exit(1);
});
