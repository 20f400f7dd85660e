'use strict';
// Starts a browser, which is closed when use has ended.

const { chromium } = require('playwright-core');

exports.withBrowser = async (executablePath, use, more = []) => {
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync', ...more],
  });
  try {
    await use(browser);
  } finally {
    await browser.close();
  }
};
