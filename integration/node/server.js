'use strict';
// A WebSocket server that speaks the language of the other servers; see the
// type server in servers_test.go. It prints its address, and then one line of
// JSON for the end of each connection.

const { WebSocketServer } = require('ws');

const subprotocols = ['chat.v3', 'chat.v2'];

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  maxPayload: 64 << 20,
  perMessageDeflate: { threshold: 0 }, // context takeover is its default
  handleProtocols: (offered) => subprotocols.find((name) => offered.has(name)) || false,
});

server.on('listening', () => {
  const { address, port } = server.address();
  console.log(`${address}:${port}`);
});

server.on('connection', (ws) => {
  ws.on('message', (data, isBinary) => {
    const text = isBinary ? '' : data.toString();
    if (text.startsWith('!ping ')) {
      ws.ping(text.slice('!ping '.length));
    } else if (text.startsWith('!close ')) {
      const [, code, reason] = /^!close (\d+) ?(.*)$/.exec(text);
      ws.close(Number(code), reason);
    } else {
      ws.send(data, { binary: isBinary });
    }
  });
  ws.on('pong', (payload) => ws.send(`!pong ${payload}`));
  ws.on('error', (err) => console.error(err));
  ws.on('close', (code, reason) => {
    console.log(JSON.stringify({ code, reason: reason.toString(), subprotocol: ws.protocol }));
  });
});
