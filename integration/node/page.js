// Uses a page as a person would: clicks, sends a message, sees it come back,
// closes. Arguments: the browser and the page's URL.
const { withBrowser } = require('./browser.js');

async function main([executablePath, url, screenshot]) {
  await withBrowser(executablePath, async (browser) => {
    const page = await browser.newPage();
    page.setDefaultTimeout(10000);
    await page.goto(url);
    await page.getByText('The WebSocket is open.').waitFor();
    await page.getByLabel('Message').fill('grüße through the tunnel');
    await page.getByRole('button', { name: 'Send' }).click();
    await page.getByRole('listitem').filter({ hasText: 'grüße through the tunnel' }).waitFor();
    if (screenshot) {
      await page.screenshot({ path: screenshot });
    }
    await page.getByRole('button', { name: 'Close' }).click();
    await page.getByText('The WebSocket is closed with code 1000.').waitFor();
    await page.getByRole('button', { name: 'Connect' }).click();
    await page.getByText('The WebSocket is open.').waitFor();
  });
}

main(process.argv.slice(2)).catch((err) => {
  console.error(err);
  process.exit(1);
});
