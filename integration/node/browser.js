'use strict';
// Starts a browser, which is closed when use has ended. It has no HTTP/3, unless it gets
// an option for that.

const { chromium } = require('playwright-core');

exports.withBrowser = async (executablePath, use, more = []) => {
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync', ...more, ...(more.some((option) => option.includes('quic')) ? [] : ['--disable-quic'])],
  });
  try {
    await use(browser);
  } finally {
    await browser.close();
  }
};
