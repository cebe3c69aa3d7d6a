'use strict';
// Serves page.html on a free port of 127.0.0.1, the page of the README at /chat?port=PORT, that of the guide at /guide?port=PORT, the
// clients of the guide at /client.js, lobby.js at /client/, and the other pages of this folder. Prints its origin, then each report
// that a page posts, one per line.
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const page = fs.readFileSync(path.join(__dirname, 'page.html'));
const root = path.join(__dirname, '../..');

/// Returns the code blocks of a language in a document.
const codeIn = (file, language) => {
  const text = fs.readFileSync(path.join(root, file), 'utf8');
  return text.split(`\n\`\`\`${language}\n`).slice(1).map((part) => part.split('\n```')[0]);
};
const chat = codeIn('README.md', 'html')[0];
const guide = codeIn('src/guide/clients.md', 'html')[0];
const classes = codeIn('src/guide/client.md', 'js').filter((code) => code.startsWith('class '));
const client = [...classes, 'export { LobbyClient, LobbySession };'].join('\n');

/// Returns the text and the type of a file of this folder, of `src/client/browser` or of `tests/vectors`, `null` if there is none.
const fileAt = (url) => {
  const [, folder, name] = /^\/(client\/|vectors\/)?(\w[\w.-]*\.(?:html|js|mjs|json))(?:\?|$)/.exec(url) ?? [];
  const folders = { 'client/': 'src/client/browser', 'vectors/': 'tests/vectors' };
  const file = name && path.join(root, folders[folder] ?? 'tests/clients', name);
  if (!file || !fs.existsSync(file)) return null;
  const kind = { html: 'text/html', json: 'application/json' }[name.split('.').pop()] ?? 'text/javascript';
  return { text: fs.readFileSync(file), type: `${kind}; charset=utf-8` };
};

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
  } else if (request.url.startsWith('/chat?port=')) {
    response.setHeader('Content-Type', 'text/html; charset=utf-8');
    response.end(chat.replaceAll('127.0.0.1:9001', `127.0.0.1:${request.url.split('=')[1]}`));
  } else if (request.url.startsWith('/guide?port=')) {
    response.setHeader('Content-Type', 'text/html; charset=utf-8');
    const page = guide.replace('http://127.0.0.1:9001/lobby.js', '/client/lobby.js');
    response.end(page.replace('127.0.0.1:9001', `127.0.0.1:${request.url.split('=')[1]}`));
  } else if (request.url === '/client.js') {
    response.setHeader('Content-Type', 'text/javascript; charset=utf-8');
    response.end(client);
  } else if (request.url === '/vectors') {
    const names = fs.readdirSync(path.join(root, 'tests/vectors')).filter((name) => name.endsWith('.json'));
    response.end(JSON.stringify(names));
  } else {
    const file = fileAt(request.url);
    response.statusCode = file ? 200 : 404;
    if (file) response.setHeader('Content-Type', file.type);
    response.end(file?.text);
  }
});

server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
