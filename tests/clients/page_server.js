'use strict';
// Serves page.html on a free port of 127.0.0.1, session_page.html at /session, the page of the README at /chat?port=PORT, and the
// clients of the guide at /client.js. Prints its origin, then each report that the page posts, one per line.
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const page = fs.readFileSync(path.join(__dirname, 'page.html'));
const sessionPage = fs.readFileSync(path.join(__dirname, 'session_page.html'));
const root = path.join(__dirname, '../..');

/// Returns the code blocks of a language in a document.
const codeIn = (file, language) => {
  const text = fs.readFileSync(path.join(root, file), 'utf8');
  return text.split(`\n\`\`\`${language}\n`).slice(1).map((part) => part.split('\n```')[0]);
};
const chat = codeIn('README.md', 'html')[0];
const classes = codeIn('src/guide/client.md', 'js').filter((code) => code.startsWith('class '));
const client = [...classes, 'export { LobbyClient, LobbySession };'].join('\n');

const server = http.createServer((request, response) => {
  if (request.method === 'POST') {
    const parts = [];
    request.on('data', (part) => parts.push(part));
    request.on('end', () => {
      process.stdout.write(JSON.stringify(JSON.parse(Buffer.concat(parts))) + '\n');
      response.end();
    });
  } else if (request.url.startsWith('/?') || request.url.startsWith('/session?')) {
    response.setHeader('Content-Type', 'text/html; charset=utf-8');
    response.end(request.url.startsWith('/?') ? page : sessionPage);
  } else if (request.url.startsWith('/chat?port=')) {
    response.setHeader('Content-Type', 'text/html; charset=utf-8');
    response.end(chat.replace('127.0.0.1:9001', `127.0.0.1:${request.url.split('=')[1]}`));
  } else if (request.url === '/client.js') {
    response.setHeader('Content-Type', 'text/javascript; charset=utf-8');
    response.end(client);
  } else {
    response.statusCode = 404;
    response.end();
  }
});

server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
