'use strict';
// Opens WebSockets from a page in a browser that has nothing but HTTP/3. Arguments: the
// browser, the site, and the hash of its certificate's key.

const assert = require('node:assert/strict');
const { withBrowser } = require('./browser.js');
const { converse } = require('./converse.js');

async function main([executablePath, site, key]) {
  await withBrowser(executablePath, async (browser) => {
    const page = await browser.newPage();
    page.setDefaultTimeout(10_000);
    await page.goto(`${site}/page`);
    const protocol = () => performance.getEntriesByType('navigation')[0].nextHopProtocol;
    assert.equal(await page.evaluate(protocol), 'h3');
    await page.evaluate(converse);
  }, [
    '--enable-features=EnableWebsocketsOverHttp3',
    `--origin-to-force-quic-on=${new URL(site).host}`,
    `--ignore-certificate-errors-spki-list=${key}`,
  ]);
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err);
  process.exit(1);
});
