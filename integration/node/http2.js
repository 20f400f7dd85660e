'use strict';
// WebSockets of the package ws on streams of Node's own HTTP/2 (RFC 8441).

const http2 = require('node:http2');
const { once } = require('node:events');
const WebSocket = require('ws');

const { PerMessageDeflate, extension } = WebSocket;

// connect opens a connection, over which the function it returns opens WebSockets.
exports.connect = async (url) => {
  const session = http2.connect(url.replace(/^ws/, 'http'));
  const [settings] = await once(session, 'remoteSettings');
  if (!settings.enableConnectProtocol) throw new Error('the server does not offer extended CONNECT');
  const open = (options) => openStream(session, new URL(url).pathname, options);
  return { open, close: () => session.close() };
};

async function openStream(session, path, { subprotocols = [], compress = false, maxPayload }) {
  const headers = { ':method': 'CONNECT', ':protocol': 'websocket', ':path': path, 'sec-websocket-version': '13' };
  if (subprotocols.length) headers['sec-websocket-protocol'] = subprotocols.join(', ');
  const deflate = compress && new PerMessageDeflate({ ...compress, isServer: false, maxPayload });
  if (deflate) {
    headers['sec-websocket-extensions'] = extension.format({ [PerMessageDeflate.extensionName]: deflate.offer() });
  }
  const stream = session.request(headers, { endStream: false });
  const [response] = await once(stream, 'response');
  if (response[':status'] !== 200) throw new Error(`the server answers ${response[':status']}`);

  // What ws itself does when its own handshake has succeeded.
  const ws = new WebSocket(null, undefined, { autoPong: true, closeTimeout: 30_000 });
  ws._isServer = false;
  ws._protocol = response['sec-websocket-protocol'] || '';
  const accepted = response['sec-websocket-extensions'];
  if (accepted) {
    deflate.accept(extension.parse(accepted)[PerMessageDeflate.extensionName]);
    ws._extensions[PerMessageDeflate.extensionName] = deflate;
  }
  return {
    ws,
    start: () => ws.setSocket(stream, Buffer.alloc(0), { maxPayload, allowSynchronousEvents: true }),
  };
}
