'use strict';
// A Socket.IO server, with a page that is called as its address and can use it.
// It prints its address, and then one line of JSON for each request that it
// refuses, such as one for a session that it does not know.

const { createServer } = require('node:http');
const { Server } = require('socket.io');

let address = '';
const http = createServer((request, response) => {
  response.setHeader('Content-Type', 'text/html');
  response.end(`<title>${address}</title><script src="/socket.io/socket.io.js"></script>`);
});
const io = new Server(http);

io.engine.on('connection_error', ({ code, message }) => {
  console.log(JSON.stringify({ code, message }));
});

io.engine.on('connection', (session) => {
  session.began = session.transport.name;
});

io.on('connection', (socket) => {
  const session = socket.conn;
  socket.on('echo', (message, answer) => {
    answer(message, { address, session: session.id, began: session.began, transport: session.transport.name });
  });
});

http.listen(0, '127.0.0.1', () => {
  const { address: host, port } = http.address();
  address = `${host}:${port}`;
  console.log(address);
});
