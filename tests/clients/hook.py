"""The backends in examples/backends, each as the hook of a lobbyd with the feature `hook`. Started by `run`.

    tests/clients/run --hook [--replay-with path/to/another/lobbyd] path/to/lobbyd

Each backend checks the signature, answers whether clients may connect, and takes the events. It is killed and started again: no
event is lost, and none comes in another order. It needs a secret, and withstands requests that anybody can send.

The session is recorded, and replayed by the other lobbyd, which needs no backend and may lack the feature.
"""

import argparse
import asyncio
import contextlib
import datetime
import glob
import hashlib
import hmac
import http.client
import http.server
import ipaddress
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lobbyd import Lobbyd, default_binary, free_port
from peers import Python
from suite import Tally

EXAMPLES = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/backends"))
SECRET = secrets.token_hex(32)
CONNECT = json.dumps({"type": "connect", "token": "token-of-ann"}).encode()
SECONDS = 60        # limit for what happens in the background
CLAIM_SECONDS = 300
# Far longer than a backend takes, also on a busy machine: with the default a client would be asked to come back.
PATIENT = ["--hook-timeout", "20s", "--auth-timeout", "60s"]


def command(name, port, secret_file):
    path = os.path.join(EXAMPLES, name)
    return {
        "backend.py": ["python3", path, str(port), secret_file],
        "backend.mjs": ["node", path, str(port), secret_file],
        "backend.php": ["php", "-S", f"127.0.0.1:{port}", path],
    }[name]


class Backend:
    def __init__(self, name, port, folder, secret_file="secret"):
        self.name, self.port = name, port
        self.secret_file = os.path.join(folder, secret_file)
        self.output = os.path.join(folder, f"{name}.out")
        self.process = None

    def spawn(self):
        environment = {**os.environ, "LOBBYD_SECRET_FILE": self.secret_file}
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                command(self.name, self.port, self.secret_file), stdout=output, stderr=subprocess.DEVNULL, env=environment)

    async def start(self):
        self.spawn()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                await asyncio.sleep(0.05)
        raise AssertionError(f"{self.name} does not listen")

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def events(self):
        """The events that it has printed. One that came twice, because its answer was lost, counts once."""
        seen = {}
        if os.path.exists(self.output):
            with open(self.output, encoding="utf-8") as output:
                for line in output:
                    if line.startswith("{") and line.endswith("\n"):
                        event = json.loads(line)
                        assert event["seq"] in seen or event["seq"] > max(seen, default=0), "events came in another order"
                        seen[event["seq"]] = event
        return list(seen.values())

    async def wait_for(self, count):
        end = time.monotonic() + SECONDS
        while len(self.events()) < count:
            assert time.monotonic() < end, f"{len(self.events())} events instead of {count}: {self.events()}"
            await asyncio.sleep(0.05)
        return self.events()

    def post(self, body, secret=SECRET, sent_at=None):
        sent_at = str(int(time.time() * 1000) if sent_at is None else sent_at)
        tag = hmac.new(secret.encode(), sent_at.encode() + b"." + body, hashlib.sha256).hexdigest()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "application/json", "X-Lobbyd-Timestamp": sent_at, "X-Lobbyd-Signature": f"sha256={tag}"}
        connection.request("POST", "/hook", body, headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def status_of(self, lines, body=b""):
        """The status of the answer to a request with these header lines and without a signature. None if there is no answer."""
        head = "\r\n".join(["POST /hook HTTP/1.1", "Host: backend", *lines, "", ""])
        with socket.create_connection(("127.0.0.1", self.port), SECONDS) as client:
            client.sendall(head.encode("latin-1") + body)
            try:
                answer = client.recv(4096)
            except ConnectionResetError:
                return None
        return int(answer.split()[1]) if answer else None


async def run_backend(tally, binary, name, folder, journal):
    backend = Backend(name, free_port(), folder)
    await backend.start()
    arguments = ["--hook", f"http://127.0.0.1:{backend.port}/hook", "--hook-secret-file", backend.secret_file,
                 "--auth", "hook", "--journal", journal, *PATIENT]
    server = Lobbyd(binary, *arguments)
    try:
        await tally.check(f"{name}: a call that is not signed, or old, is refused", refuses(backend), CLAIM_SECONDS)
        await tally.check(f"{name}: a body is read only if its length is known and fits", bounds(backend), CLAIM_SECONDS)
        await tally.check(f"{name}: it goes on serving when a client ends a connection in a body", survives(backend), CLAIM_SECONDS)
        await tally.check(f"{name}: it says who may connect, and hears of it", admits(backend, server), CLAIM_SECONDS)
        await tally.check(f"{name}: while it is down clients are asked to come back, and no event is lost", outage(backend, server), CLAIM_SECONDS)
        await tally.check(f"{name}: it hears of the end", ends(backend, server), CLAIM_SECONDS)
        await tally.check(f"{name}: it skips events that are repeated", skips(backend), CLAIM_SECONDS)
    finally:
        server.close()
        backend.kill()


async def refuses(backend):
    assert backend.post(CONNECT) == 200
    assert backend.post(CONNECT, secret="x" * 32) == 401
    assert backend.post(CONNECT, sent_at=int(time.time() * 1000) - 120_000) == 401
    for lines in [[], ["X-Lobbyd-Signature: sha256=\xe9"], ["X-Lobbyd-Timestamp: x", "X-Lobbyd-Signature: x"]]:
        status = backend.status_of(["Content-Length: 2", *lines], b"{}")
        assert status == 401, (lines, status)


async def bounds(backend):
    """The longest call of lobbyd is taken: 256 KiB of events, and what is around them."""
    padded = json.dumps({"type": "connect", "token": "token-of-ann", "padding": "x" * (257 << 10)}).encode()
    assert backend.post(padded) == 200
    is_php = backend.name == "backend.php"  # Its web server has read the whole body before the script begins.
    for line, body in [("X-Length: 1", b""), ("Content-Length: 1048577", b"x" * 1_048_577),
                       ("Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n")]:
        status = backend.status_of([line], body if is_php else b"")
        assert status == 413, (line, status)
    # The web servers of Node and PHP refuse these by themselves.
    expected = [413] if backend.name == "backend.py" else [400, None]
    for length in ["-1", "2x", "0x10"]:
        status = backend.status_of([f"Content-Length: {length}"], b"{}")
        assert status in expected, (length, status)
    if backend.name == "backend.py":
        with socket.create_connection(("127.0.0.1", backend.port), SECONDS) as client:
            client.sendall(b"POST /hook HTTP/1.1\r\nHost: backend\r\nContent-Length: 100\r\n\r\nabc")
            assert client.recv(1) == b"", "it waits for the body"
    assert backend.post(CONNECT) == 200


async def survives(backend):
    with socket.create_connection(("127.0.0.1", backend.port), SECONDS) as client:
        client.sendall(b"POST /hook HTTP/1.1\r\nHost: backend\r\nContent-Length: 100\r\n\r\nabc")
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            client.recv(4096)  # It is refused, or closed: the backend has seen the end.
    assert backend.post(CONNECT) == 200
    assert backend.process.poll() is None


async def needs_secret(name, folder):
    """With a key that is empty or can be guessed anybody can sign a call."""
    for contents in [None, "", "\n", "x" * 15]:
        backend = Backend(name, free_port(), folder, f"{name}.secret")
        if contents is not None:
            with open(backend.secret_file, "w") as file:
                file.write(contents)
        try:
            if name == "backend.php":  # It reads the file for each call.
                await backend.start()
                status = backend.post(CONNECT, secret=(contents or "").strip())
                assert status == 500, (contents, status)
            else:
                backend.spawn()
                assert await asyncio.to_thread(backend.process.wait, SECONDS) != 0
        finally:
            backend.kill()


async def skips(backend):
    """As after an answer that was lost: a batch comes again, with one event more. Another boot begins with 1."""
    def batch(boot, last):
        events = [{"boot": boot, "seq": seq, "type": "probe"} for seq in range(1, last + 1)]
        return json.dumps({"type": "events", "boot": boot, "batch": 1, "lost": 0, "events": events}).encode()
    for boot, last in [("a" * 16, 2), ("a" * 16, 3), ("b" * 16, 1), ("a" * 16, 3)]:
        assert backend.post(batch(boot, last)) == 200
    with open(backend.output, encoding="utf-8") as output:
        lines = [json.loads(line) for line in output if '"probe"' in line]
    assert [line["boot"][0] + str(line["seq"]) for line in lines] == ["a1", "a2", "a3", "b1"], lines


async def admits(backend, server):
    ann = await Python().open(server.url("chess", "token-of-ann"))
    await ann.expect("welcome", user="ann")
    stranger = await Python().open(server.url("chess", "token-of-eve"))
    await stranger.expect_goodbye(4001, "unauthorized")
    await ann.close()
    events = await backend.wait_for(5)
    kinds = [event["type"] for event in events]
    assert kinds == ["server_started", "lobby_opened", "joined", "left", "lobby_closed"], kinds
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    assert len({event["boot"] for event in events}) == 1
    joined, left = events[2], events[3]
    assert (joined["lobby"], joined["user"], joined["conn"], joined["role"]) == ("chess", "ann", "s1", "member"), joined
    assert left["reason"] == "left" and abs(time.time() * 1000 - left["at"]) < 60_000


async def outage(backend, server):
    ann = await Python().open(server.url("chess", "token-of-ann"))
    await ann.expect("welcome", user="ann")
    await backend.wait_for(7)
    backend.kill()
    begun = time.monotonic()
    refused = await Python().open(server.url("chess", "token-of-ann"))
    await refused.expect_goodbye(4101, "auth_timeout")
    # Without waiting for hook_timeout.
    assert time.monotonic() - begun < 15, "a dead backend holds nobody"
    await ann.close()
    await asyncio.to_thread(server.wait_for_log, "the hook does not take events", SECONDS)
    await backend.start()
    events = await backend.wait_for(9)
    assert [event["seq"] for event in events] == list(range(1, 10)), events
    await asyncio.to_thread(server.wait_for_log, "the hook takes events again", SECONDS)


async def ends(backend, server):
    server.terminate()
    assert await asyncio.to_thread(server.exit_code, SECONDS) == 0
    kinds = [event["type"] for event in await backend.wait_for(11)]
    assert kinds[-2:] == ["draining", "server_stopped"], kinds


def certificate(folder):
    """Writes a new certificate for 127.0.0.1, which signs itself, and its key. Returns the names of both files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a backend of the tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    paths = os.path.join(folder, "certificate.pem"), os.path.join(folder, "key.pem")
    with open(paths[0], "wb") as file:
        file.write(signed.public_bytes(serialization.Encoding.PEM))
    with open(paths[1], "wb") as file:
        form = serialization.PrivateFormat.PKCS8
        file.write(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return paths


class Tls(http.server.BaseHTTPRequestHandler):
    """Allows every client."""

    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps({"allow": True, "user": call["token"]} if call["type"] == "connect" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


async def over_tls(binary, folder):
    """A certificate that is trusted is accepted, any other is not, and nothing is sent to its owner."""
    signed, key = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed, key)
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tls)
    listener.socket = context.wrap_socket(listener.socket, server_side=True)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    arguments = ["--hook", f"https://127.0.0.1:{listener.server_address[1]}/", "--hook-secret-file",
                 os.path.join(folder, "secret"), "--auth", "hook", *PATIENT]
    with Lobbyd(binary, *arguments, "--hook-ca-file", signed) as server:
        ann = await Python().open(server.url("chess", "ann"))
        await ann.expect("welcome", user="ann")
        await ann.close()
    with Lobbyd(binary, *arguments) as server:
        ann = await Python().open(server.url("chess", "ann"))
        await ann.expect_goodbye(4101, "auth_timeout")
        await asyncio.to_thread(server.wait_for_log, "invalid peer certificate", SECONDS)
    listener.shutdown()


async def replays(binary, journal):
    files = sorted(file for file in glob.glob(glob.escape(journal) + "*") if not file.endswith(".lock"))
    assert files, "there is no journal"
    for file in files:
        result = await asyncio.to_thread(subprocess.run, [binary, "replay", file], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-500:] + result.stderr[-1000:]
        for secret in ["token-of-ann", SECRET]:
            with open(file, "rb") as contents:
                assert secret.encode() not in contents.read(), "the journal has a secret"


async def main(binary, replayer):
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="lobbyd-hook-") as folder:
        with open(os.path.join(folder, "secret"), "w") as file:
            file.write(SECRET + "\n")
        for name in ["backend.py", "backend.mjs", "backend.php"]:
            journal = os.path.join(folder, f"{name}.journal")
            await tally.check(f"{name}: it accepts nothing without a secret of 16 bytes", needs_secret(name, folder), CLAIM_SECONDS)
            await run_backend(tally, binary, name, folder, journal)
            await tally.check(f"{name}: the session is replayed without it", replays(replayer, journal), CLAIM_SECONDS)
        await tally.check("https: only a backend with a trusted certificate is called", over_tls(binary, folder), CLAIM_SECONDS)
    return tally.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--replay-with")
    parser.add_argument("binary", nargs="?", default=default_binary())
    options = parser.parse_args()
    sys.exit(1 if asyncio.run(main(options.binary, options.replay_with or options.binary)) else 0)
