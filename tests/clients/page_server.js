'use strict';
// Serves page.html on a free port of 127.0.0.1. Prints its origin, then each report that the page posts, one per line.
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const page = fs.readFileSync(path.join(__dirname, 'page.html'));

const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      process.stdout.write(JSON.stringify(JSON.parse(Buffer.concat(parts))) + '\n');
      response.end();
    });
  } else if (request.url.startsWith('/?')) {
    response.setHeader('Content-Type', 'text/html; charset=utf-8');
    response.end(page);
  } else {
    response.statusCode = 404;
    response.end();
  }
});

server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
