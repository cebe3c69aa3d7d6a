'use strict';
// Socket.IO lobby server: node server.js PORT [SOCKET FILE OF REDIS]. Clients emit `join` with a lobby, then `say` with data.
const http = require('http');
const { Server } = require('socket.io');

async function main(port, redis) {
  const server = http.createServer();
  const io = new Server(server, { transports: ['websocket'], perMessageDeflate: false, serveClient: false });
  if (redis) {
    const { createAdapter } = require('@socket.io/redis-adapter');
    const { createClient } = require('redis');
    const publisher = createClient({ socket: { path: redis } });
    const subscriber = publisher.duplicate();
    await Promise.all([publisher.connect(), subscriber.connect()]);
    io.adapter(createAdapter(publisher, subscriber));
  }
  io.on('connection', (socket) => {
    let lobby;
    socket.on('join', (code) => {
      lobby = code;
      socket.join(code);
      socket.emit('joined');
    });
    socket.on('say', (data) => socket.to(lobby).emit('message', data));
  });
  server.listen(port, '127.0.0.1', 4096, () => console.log(server.address().port));
}

main(Number(process.argv[2] || 0), process.argv[3]);
