"""Server-sent events with real clients: Python's `http.client`, and a plain `EventSource` in Chromium whose connection is cut again and
again. Nothing may be lost or come twice. Started by `run --event-streams`."""

import http.client
import http.server
import json
import socket
import sys
import threading
import time
import uuid

import browser
from lobbyd import Lobbyd, default_binary

MESSAGES = 300
CUTS = 12

PAGE = """<!doctype html><meta charset="utf-8"><title>events</title><script>
const url = `http://127.0.0.1:PORT/sse/chess?token=page&session=${crypto.randomUUID()}`;
const report = (entry) => fetch("/report", { method: "POST", body: JSON.stringify(entry) });
const events = new EventSource(url);
const seen = [];
let welcomes = 0, recovered = true, said = 0, acks = [];
const say = (message) => fetch(url, { method: "POST", body: JSON.stringify(message) }).then((r) => r.status, () => 0);
events.onmessage = async ({ data }) => {
  const message = JSON.parse(data);
  if (message.type === "welcome") {
    if (welcomes++ > 0) recovered &&= message.resumed && message.recovered;
    report({ welcome: welcomes });
  } else if (message.type === "message") {
    seen.push(message.data);
    if (message.data === "end") {
      const status = await say({ type: "broadcast", data: { seen: seen.length }, ref: 1 });
      report({ seen, welcomes, recovered, status });
      setTimeout(() => say({ type: "leave" }), 500);
    }
  } else if (message.type === "goodbye") {
    // The browser comes back once more, is answered 204, and gives up.
    setInterval(() => events.readyState === EventSource.CLOSED && report({ done: true }), 100);
  }
};
</script>"""


class Proxy:
    """Passes bytes on, and cuts all connections on demand."""

    def __init__(self, port):
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.pairs = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            self.pairs.append((client, server))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


class Stream:
    """An event stream of `http.client`. Comes back as an `EventSource` does."""

    def __init__(self, port, user, session=None, headers=None):
        self.port, self.session, self.headers = port, session or uuid.uuid4().hex, headers or {}
        self.path = f"/sse/chess?token={user}&session={self.session}"
        self.last = None
        self.open()

    def open(self):
        headers = dict(self.headers)
        if self.last:
            headers["Last-Event-ID"] = self.last
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.connection.request("GET", self.path, headers=headers)
        self.answer = self.connection.getresponse()

    def event(self):
        """Returns the next event; None at the end of the stream."""
        data = None
        while line := self.answer.readline().decode():
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "id":
                self.last = value
            elif field == "data":
                data = json.loads(value)
            elif line == "\n" and data is not None:
                return data
        return None

    def expect_keep_alive(self):
        """An empty comment."""
        while line := self.answer.readline():
            if line == b":\n":
                return
        raise AssertionError("the stream ended before its keep-alive")

    def expect(self, kind):
        while (event := self.event()) is not None:
            if event["type"] == kind:
                return event
        raise AssertionError(f"the stream ended before a {kind}")

    def post(self, *messages, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)
        try:
            connection.request("POST", self.path, body="\n".join(map(json.dumps, messages)).encode())
            return connection.getresponse().status
        finally:
            connection.close()


def check_http_client(binary):
    with Lobbyd(binary, "--ping-interval", "1s", "--pong-timeout", "500ms") as server:
        ann, bob = Stream(server.port, "ann"), Stream(server.port, "bob")
        assert ann.answer.getheader("Content-Type") == "text/event-stream", ann.answer.getheaders()
        ann.expect("presence_state")
        # It is a member.
        bob.expect("presence_state")
        # One connection for many POSTs, some of them with several messages.
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for n in range(20):
            lines = [{"type": "broadcast", "data": 2 * n + i, "ref": 2 * n + i + 1} for i in range(2)]
            connection.request("POST", ann.path, body="\r\n".join(map(json.dumps, lines)).encode())
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (202, b""), answer.status
        assert [bob.expect("message")["data"] for _ in range(40)] == list(range(40))
        assert [ann.expect("ack")["ref"] for _ in range(40)] == list(range(1, 41))
        # A stream that is cut misses nothing.
        bob.connection.sock = None
        bob.answer.close()
        assert ann.post({"type": "broadcast", "data": "missed"}) == 202
        bob.open()
        welcome = bob.expect("welcome")
        assert welcome["resumed"] and welcome["recovered"], welcome
        assert bob.expect("message")["data"] == "missed"
        bob.expect("presence_state")
        # The keep-alive of a stream without events. Before it bob may hear that he was away.
        bob.expect_keep_alive()
        assert ann.post({"type": "leave"}) == 202
        assert ann.expect("goodbye")["code"] == 1000 and ann.event() is None and ann.last == "end"
        ann.open()
        assert ann.answer.status == 204, ann.answer.status


class Reports(http.server.BaseHTTPRequestHandler):
    """Serves the page and collects what it reports."""

    page, entries = "", []

    def do_GET(self):
        body = self.page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.entries.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def report(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for entry in Reports.entries:
            if condition in entry:
                return entry
        time.sleep(0.05)
    raise AssertionError(f"no report of {condition}: {Reports.entries[-3:]}")


def check_chromium(binary):
    # The history is long enough for a browser that comes back late.
    with Lobbyd(binary, "--messages-per-second", "unlimited", "--bytes-per-second", "unlimited", "--history-frames", 4096,
                "--history-bytes", "1MiB", "--max-outbound-bytes", "2MiB") as server:
        proxy = Proxy(server.port)
        Reports.page = PAGE.replace("PORT", str(proxy.port))
        pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Reports)
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        talker = Stream(server.port, "talker")
        talker.expect("presence_state")
        with browser.chromium(f"http://127.0.0.1:{pages.server_address[1]}/"):
            report("welcome", 120)
            for n in range(MESSAGES):
                assert talker.post({"type": "broadcast", "data": n}) == 202
                if n % (MESSAGES // CUTS) == 5:
                    proxy.cut()
                    time.sleep(0.3)
            assert talker.post({"type": "broadcast", "data": "end"}) == 202
            entry = report("seen", 120)
            assert entry["seen"] == [*range(MESSAGES), "end"], f"lost or doubled: {entry['seen']}"
            assert entry["recovered"] and entry["welcomes"] > 1 and entry["status"] == 202, entry
            # The EventSource has given up after the final goodbye.
            report("done", 120)
        pages.shutdown()


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else default_binary()
    failed = 0
    for check in (check_http_client, check_chromium):
        try:
            check(binary)
            print(f"passed  {check.__name__}")
        except Exception as error:      # noqa: BLE001 - the report names it
            failed += 1
            print(f"FAILED  {check.__name__}: {error!r}")
    print(f"{2 - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
