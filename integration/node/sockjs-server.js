'use strict';
// A SockJS server, with a page that is called as its address and can use it.
// It prints its address, and then one line for each request that it refuses, such
// as one for a session that it does not know.

const { readFileSync } = require('node:fs');
const { createServer } = require('node:http');
const sockjs = require('sockjs');

const library = readFileSync(require.resolve('sockjs-client/dist/sockjs.min.js'));
let address = '';
const http = createServer((request, response) => {
  if (request.url.startsWith('/echo')) {
    response.on('finish', () => {
      if (response.statusCode >= 400) console.log(`${request.method} ${request.url}: ${response.statusCode}`);
    });
  } else if (request.url === '/sockjs.js') {
    response.setHeader('Content-Type', 'text/javascript');
    response.end(library);
  } else {
    response.setHeader('Content-Type', 'text/html');
    response.end(`<title>${address}</title><script src="/sockjs.js"></script>`);
  }
});

const echo = sockjs.createServer({ prefix: '/echo', log: () => {} });
echo.on('connection', (session) => {
  session.on('data', (message) => {
    session.write(JSON.stringify({ message, address, protocol: session.protocol }));
  });
});
echo.installHandlers(http);

http.listen(0, '127.0.0.1', () => {
  const { address: host, port } = http.address();
  address = `${host}:${port}`;
  console.log(address);
});
