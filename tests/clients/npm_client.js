'use strict';
// Drives npm's `ws` for peers.py. Each input line is a command in JSON, each output line an event in JSON; `id` is the connection.
const readline = require('node:readline');
const WebSocket = require('ws');

const sockets = new Map();
const report = (id, on, more = {}) => process.stdout.write(JSON.stringify({ id, on, ...more }) + '\n');

const commands = {
  open({ id, url }) {
    const ws = new WebSocket(url);
    sockets.set(id, ws);
    ws.on('open', () => report(id, 'open', { protocol: ws.protocol }));
    ws.on('message', (data, isBinary) => isBinary
      ? report(id, 'binary', { data: data.toString('base64') })
      : report(id, 'text', { data: data.toString() }));
    ws.on('pong', (data) => report(id, 'pong', { data: data.toString('base64') }));
    ws.on('error', (error) => report(id, 'error', { message: error.message }));
    ws.on('close', (code, reason) => report(id, 'close', { code, reason: reason.toString() }));
  },
  text({ id, data }) { sockets.get(id).send(data); },
  binary({ id, data }) { sockets.get(id).send(Buffer.from(data, 'base64')); },
  ping({ id, data }) { sockets.get(id).ping(Buffer.from(data, 'base64')); },
  close({ id }) { sockets.get(id).close(1000); },
  pause({ id }) { sockets.get(id).pause(); },
  resume({ id }) { sockets.get(id).resume(); },
  terminate({ id }) { sockets.get(id).terminate(); },
};

readline.createInterface({ input: process.stdin })
  .on('line', (line) => { const command = JSON.parse(line); commands[command.do](command); })
  .on('close', () => process.exit(0));
