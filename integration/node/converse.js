'use strict';
// What a page says on three WebSockets at once, and how they end.

exports.converse = async () => {
  const next = (ws, kind) => new Promise((resolve, reject) => {
    ws.addEventListener(kind, resolve, { once: true });
    if (kind !== 'close') ws.addEventListener('close', (e) => reject(new Error(`closed with ${e.code}`)), { once: true });
  });
  const expect = (got, want) => {
    if (got !== want) throw new Error(`got ${got}, want ${want}`);
  };
  const open = async () => {
    const ws = new WebSocket(`wss://${location.host}/ws`, ['chat.v1', 'chat.v2']);
    ws.binaryType = 'arraybuffer';
    await next(ws, 'open');
    expect(ws.protocol, 'chat.v2');
    return ws;
  };
  const echo = async (ws, data) => {
    const message = next(ws, 'message');
    ws.send(data);
    const { data: back } = await message;
    if (typeof data === 'string') expect(back, data);
    else expect(new Uint8Array(back).every((byte, i) => byte === i % 251) && back.byteLength, data.byteLength);
  };
  const all = await Promise.all([open(), open(), open()]);
  const long = Uint8Array.from({ length: 3_000_000 }, (_, i) => i % 251);
  await Promise.all(all.map(async (ws) => {
    for (const text of ['', 'grüße \u{1f984}', 'x'.repeat(70_000)]) await echo(ws, text);
    await echo(ws, long);
  }));
  const closes = all.map((ws) => next(ws, 'close'));
  all[0].close(1000);
  all[1].close(4000, 'grund ü');
  all[2].send('!close 4001 bye');
  for (const [i, code] of [1000, 4000, 4001].entries()) expect((await closes[i]).code, code);
};
