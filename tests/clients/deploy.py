"""Tests of the files in examples/deploy, with the programs that they are for: systemd's tools, nginx, HAProxy and Caddy.

Started by `run --deploy`. The proxies run with the files as they are, except for addresses, names of files and the certificate.
"""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

from websockets.exceptions import InvalidStatus

from attempts import attempts
from lobbyd import Lobbyd, default_binary, free_port
from peers import Python

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = os.path.normpath(os.path.join(HERE, "../../examples/deploy"))
SITE = "game.example"
SECRET = "c2VjcmV0LXRva2Vu"
SECONDS = 60        # limit for what a busy machine delays
ADMIN = re.compile(r"admin API on http://127\.0\.0\.1:(\d+)")


def read(name):
    with open(os.path.join(FILES, name), encoding="utf-8") as file:
        return file.read()


def replace(text, *pairs):
    """Replaces words of a file. A word that the file does not have is an error: the file has changed."""
    for old, new in pairs:
        assert old in text, f"the file has no {old!r}"
        text = text.replace(old, new)
    return text


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def certificate(folder):
    """A certificate for the site, and the settings of a client that trusts it."""
    key, cert = os.path.join(folder, "site.key"), os.path.join(folder, "site.pem")
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", f"/CN={SITE}", "-addext", f"subjectAltName=DNS:{SITE}", "-keyout", key, "-out", cert)
    return key, cert, ssl.create_default_context(cafile=cert)


class Program:
    """Another program in the foreground, ended at the end of the block."""

    def __init__(self, *command, port, cwd=None):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=cwd)
        end = time.monotonic() + SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise AssertionError(f"{command[0]} does not listen on {port}:\n{self.text}")
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.seek(0)
        self.text = self.log.read().decode(errors="replace")
        self.log.close()


class Server(Lobbyd):
    """lobbyd as the guide starts it behind a proxy, with an operators' port."""

    def __init__(self, binary, *args, proxies=("--trusted-proxies", 1), **options):
        super().__init__(binary, *proxies, "--auth", "open-to-anybody", "--admin", "127.0.0.1:0", *args, **options)
        self.admin = int(self.wait_for_log(ADMIN, SECONDS).group(1))

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=SECONDS) as answer:
            return sum(float(line.split()[-1]) for line in answer.read().decode().splitlines() if line.startswith(name))

    def address_of(self, user):
        return self.ask(f"/users/{user}")["seats"][0]["peer"]


async def open_page(port, context, lobby, user, origin=None, **options):
    """Opens a WebSocket as a page of the site does: the names in the URL, Host and Origin are those of the site."""
    return await Python().open(
        f"wss://{SITE}:{port}/ws/{lobby}?token={user}", host="127.0.0.1", port=port, ssl=context, server_hostname=SITE,
        origin=origin or f"https://{SITE}:{port}", **options)


async def talk_through(port, context, server):
    """What every proxy must get right: the upgrade, Host, Origin, the client's address, and text and binary both ways."""
    ann = await open_page(port, context, "chess", "ann")
    await ann.expect("welcome", user="ann")
    await ann.expect("presence_state")
    bob = await open_page(port, context, "chess", "bob", additional_headers={"X-Forwarded-For": "198.51.100.7"})
    await bob.expect("welcome", user="bob")
    await bob.expect("presence_state")
    await ann.expect("presence_diff")
    await ann.say("broadcast", data="through the proxy", ref=1)
    await bob.expect("message", data="through the proxy")
    await ann.expect("ack", ref=1, delivered=1)
    await bob.send(bytes(range(256)) * 100)
    await ann.expect_binary(bytes(range(256)) * 100)
    await ann.ping(b"x")
    # The address that the proxy saw, not what the client wrote and not the proxy's own connection.
    for user in ["ann", "bob"]:
        assert server.address_of(user).rsplit(":", 1)[0] in ("127.0.0.1", "127.0.0.1:0"), server.address_of(user)
    assert "198.51.100.7" not in server.log(), server.log()
    foreign = await open_page(port, context, "chess", "eve", origin="https://elsewhere.example")
    await foreign.expect_goodbye(4003, "forbidden_origin")
    await ann.close()
    await bob.expect("presence_diff", joins=[])
    await bob.close()


async def refused_by_the_proxy(port, context):
    """Without a server behind it the proxy answers itself. Its logs must not contain the token of the request."""
    protocols = ["lobby.v1.json", f"base64url.bearer.lobby.{SECRET}"]
    for options in [{"subprotocols": protocols}, {"additional_headers": {"Authorization": f"Bearer {SECRET}"}}]:
        try:
            await open_page(port, context, "chess", SECRET, **options)
        except InvalidStatus as refused:
            assert refused.response.status_code == 502, refused
        else:
            raise AssertionError("the proxy accepted a connection without a server")


async def room_is_one_lobby(port, context):
    """However the path of a lobby is encoded, its members meet on one process."""
    for number in range(8):
        ann = await open_page(port, context, f"room{number}", "ann")
        await ann.expect("welcome", lobby=f"room{number}")
        bob = await open_page(port, context, f"r%6fom{number}", "bob")
        await bob.expect("welcome", lobby=f"room{number}")
        users = (await bob.expect("presence_state"))["users"]
        assert [entry["user"] for entry in users] == ["ann", "bob"], users
        await ann.close()
        await bob.close()


def get(port, path, context=None):
    connection = (http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=SECONDS) if context
                  else http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS))
    if context:
        # Caddy wants a name.
        connection.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=SECONDS), server_hostname=SITE)
    connection.request("GET", path, headers={"Host": f"{SITE}:{port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def check_other_paths(port, context, server):
    for path in "/health/ready", "/lobby.js", "/lobbies":
        assert get(port, path, context) == get(server.port, path), path
    assert get(port, "/stats", context)[0] == 404, "the operators' port is not reachable from outside"


def pages_context(context):
    """For requests by address: the certificate is trusted, its name is not compared."""
    context.check_hostname = False
    return context


def nginx(binary, folder):
    key, cert, context = certificate(folder)
    with Server(binary) as server:
        port = free_port()
        site = replace(
            read("nginx.conf"), ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"), ("listen [::]:443 ssl;", ""),
            ("listen 80;", f"listen 127.0.0.1:{free_port()};"), ("listen [::]:80;", ""), ("127.0.0.1:9001", f"127.0.0.1:{server.port}"),
            (f"/etc/ssl/{SITE}.pem", cert), (f"/etc/ssl/{SITE}.key", key), ("/var/log/nginx/", f"{folder}/"),
            (f"/var/www/{SITE}", folder))
        conf = os.path.join(folder, "nginx.conf")
        with open(conf, "w", encoding="utf-8") as file:
            paths = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
            file.write(f"daemon off; user root; pid {folder}/pid; error_log stderr; events {{}} http {{ {paths} {site} }}")
        with open(os.path.join(folder, "index.html"), "w", encoding="utf-8") as file:
            file.write("the page")
        run("nginx", "-t", "-c", conf)
        with Program("nginx", "-c", conf, port=port):
            asyncio.run(talk_through(port, context, server))
            context = pages_context(context)
            check_other_paths(port, context, server)
            assert get(port, "/index.html", context) == (200, b"the page")
            server.close()
            asyncio.run(refused_by_the_proxy(port, context))
        text = ""
        for log in [f"{SITE}.log", f"{SITE}.error.log"]:
            with open(os.path.join(folder, log), encoding="utf-8") as file:
                text += file.read()
        assert "/ws/chess" in text and "token" not in text and SECRET not in text, text


def caddy(binary, folder):
    key, cert, context = certificate(folder)
    with Server(binary) as server:
        port = free_port()
        # A certificate of our own, since Caddy would ask for one on the internet.
        site = replace(
            read("Caddyfile"), (f"{SITE} {{", f"https://{SITE}:{port} {{\n\tbind 127.0.0.1\n\ttls {cert} {key}"),
            ("127.0.0.1:9001", f"127.0.0.1:{server.port}"), (f"/var/www/{SITE}", folder))
        conf = os.path.join(folder, "Caddyfile")
        with open(conf, "w", encoding="utf-8") as file:
            file.write(site.replace("{\n", "{\n\tadmin off\n\tauto_https off\n", 1))
        os.environ.update(HOME=folder, XDG_DATA_HOME=folder, XDG_CONFIG_HOME=folder)
        with Program("caddy", "run", "--config", conf, "--adapter", "caddyfile", port=port) as program:
            asyncio.run(talk_through(port, context, server))
            check_other_paths(port, pages_context(context), server)
            server.close()
            asyncio.run(refused_by_the_proxy(port, context))
        assert '"status":502' in program.text and SECRET not in program.text, program.text


async def lobbies_stay_together(port, context, servers):
    """All members of a lobby reach the same process, and both processes have lobbies."""
    clients, homes = [], {}
    for lobby in (f"lobby-{n}" for n in range(12)):
        for user in (f"{lobby}-ann", f"{lobby}-bob"):
            client = await open_page(port, context, lobby, user)
            clients.append(client)
            await client.expect("welcome", user=user)
            users = (await client.expect("presence_state"))["users"]
        assert [entry["user"] for entry in users] == [f"{lobby}-ann", f"{lobby}-bob"], users
        homes[lobby] = [n for n, server in enumerate(servers) if lobby in str(server.ask("/lobbies"))]
    assert all(len(home) == 1 for home in homes.values()), homes
    assert {home[0] for home in homes.values()} == {0, 1}, homes
    for client in clients:
        await client.close()
    return next(lobby for lobby, home in homes.items() if home == [0])


async def moves_away(port, context, lobby, server):
    """A lobby of a process that drains is opened on the other one, once HAProxy has seen it."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            client = await open_page(port, context, lobby, "ann")
            await client.expect("welcome", user="ann")
            break
        except Exception as refused:     # 503 of the draining process
            assert time.monotonic() < end, f"still refused: {refused!r}"
            await asyncio.sleep(0.1)
    assert lobby in str(server.ask("/lobbies"))
    await client.close()


def haproxy(binary, folder):
    key, cert, context = certificate(folder)
    both = os.path.join(folder, "both.pem")
    with open(both, "w", encoding="utf-8") as file:
        file.write(open(cert, encoding="utf-8").read() + open(key, encoding="utf-8").read())
    # A slow drain, so that the draining process is there for a while.
    with Server(binary, "--drain-deadline", "60s", "--journal-sync", "off") as one, Server(binary) as two:
        port = free_port()
        text = replace(
            read("haproxy.cfg"), ("maxconn 20000", "maxconn 1000"), ("bind :::443 v4v6", f"bind 127.0.0.1:{port}"),
            ("127.0.0.1:9001", f"127.0.0.1:{one.port}"),
            # Without it a whole check must be over within its interval.
            ("timeout connect 5s", "timeout connect 5s\n    timeout check 30s"),
            ("127.0.0.1:9011", f"127.0.0.1:{two.port}"), (f"/etc/ssl/{SITE}.pem", both))
        conf = os.path.join(folder, "haproxy.cfg")
        with open(conf, "w", encoding="utf-8") as file:
            file.write(text)
        checked = run("haproxy", "-c", "-f", conf)
        assert "WARNING" not in checked, checked
        with Program("haproxy", "-db", "-f", conf, port=port):
            asyncio.run(address_through(port, context, [one, two]))
            lobby = asyncio.run(lobbies_stay_together(port, context, [one, two]))
            asyncio.run(room_is_one_lobby(port, context))
            context_of_pages = pages_context(ssl.create_default_context(cafile=cert))
            check_other_paths(port, context_of_pages, one)
            one.terminate()
            asyncio.run(moves_away(port, context, lobby, two))


CLIENT = "127.0.0.77"    # another address of this machine than that of the proxy


async def proxied_client(port, context, server):
    """Behind a proxy of TCP the address is that of the PROXY header, and never what the client writes."""
    for user in ["ann", "bob"]:
        client = await open_page(port, context, "chess", user, local_addr=(CLIENT, 0),
                                 additional_headers={"X-Forwarded-For": "198.51.100.7"})
        await client.expect("welcome", user=user)
        await client.expect("presence_state")
        await client.say("ping", ref=1)
        await client.expect("pong", ref=1)
        own = client._socket.local_address
        assert server.address_of(user) == f"{own[0]}:{own[1]}", (server.address_of(user), own)
        await client.close()
    # The client's own connection is none of a listed proxy: its bytes are HTTP, and a header is refused.
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS, source_address=(CLIENT, 0)) as direct:
        direct.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        assert direct.recv(4096).startswith(b"HTTP/1.1 400 "), "a stranger's header is accepted"


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


# What HAProxy sends in front of the connection. The last two check by connecting alone: the header, and then a reset.
HAPROXY_HEADERS = [
    ("send-proxy-v2 proxy-v2-options crc32c", []),
    ("send-proxy-v2 proxy-v2-options ssl,cert-cn,authority,crc32c,unique-id", []),
    ("send-proxy", []),
    ("send-proxy-v2", ["option httpchk GET /health/ready", "http-check expect status 200"]),
    ("send-proxy", ["option httpchk GET /health/ready", "http-check expect status 200"]),
]


def haproxy_tcp(binary, folder):
    """The PROXY protocol as HAProxy sends it, and its health checks, which are neither errors nor charged."""
    key, cert, context = certificate(folder)
    both = os.path.join(folder, "both.pem")
    with open(both, "w", encoding="utf-8") as file:
        file.write(open(cert, encoding="utf-8").read() + open(key, encoding="utf-8").read())
    file_of = os.path.join(folder, "lobbyd.sock")
    for header, left_out in HAPROXY_HEADERS:
        for target in ["port", "socket file"]:
            proxies = ["--proxy-protocol", "127.0.0.1,unix:", "--attempts-per-minute", 5, "--attempt-burst", 5,
                       "--listen-mode", 666]
            with Server(binary, proxies=proxies, listen=f"127.0.0.1:0,unix:{file_of}") as server:
                port = free_port()
                at = f"127.0.0.1:{server.port}" if target == "port" else f"unix@{file_of}"
                text = replace(
                    read("haproxy-tcp.cfg"), ("maxconn 20000", "maxconn 1000"), ("bind :::443 v4v6", f"bind 127.0.0.1:{port}"),
                    ("127.0.0.1:9001", at), (f"/etc/ssl/{SITE}.pem", both), ("inter 2s", "inter 50ms"),
                    # Without it a whole check must be over within the interval.
                    ("timeout connect 5s", "timeout connect 5s\n    timeout check 30s"),
                    ("send-proxy-v2 proxy-v2-options crc32c", header), *[(line, "") for line in left_out])
                conf = os.path.join(folder, "haproxy-tcp.cfg")
                with open(conf, "w", encoding="utf-8") as file:
                    file.write(text)
                checked = run("haproxy", "-c", "-f", conf)
                assert "WARNING" not in checked, checked
                os.chmod(folder, 0o755)
                with Program("haproxy", "-db", "-f", conf, port=port) as program:
                    asyncio.run(proxied_client(port, context, server))
                    # Many more checks than an address may make attempts. In version 1 over TCP they name HAProxy's own address.
                    own = 'lobbyd_proxy_headers_total{origin="proxy"}' if "v2" in header else "lobbyd_proxy_headers_total"
                    wait_until(lambda: server.metric(own) > 12)
                    asyncio.run(proxied_client(port, context, server))
                assert "DOWN" not in program.text, program.text
                assert server.metric('lobbyd_proxy_headers_total{origin="client"}') >= 4
                wait_until(lambda: server.metric("lobbyd_proxy_pending") == 0)
                faults = server.metric("lobbyd_proxy_closes_total") - server.metric('lobbyd_proxy_closes_total{reason="hangup"}')
                assert faults == 0 and not re.search("WARN|ERROR", server.log()), server.log()


def nginx_stream(binary, folder):
    """The PROXY protocol of version 1 as nginx sends it."""
    key, cert, context = certificate(folder)
    with Server(binary, proxies=["--proxy-protocol", "127.0.0.0/26"]) as server:
        port = free_port()
        text = replace(
            read("nginx-stream.conf"), ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"), ("listen [::]:443 ssl;", ""),
            ("127.0.0.1:9001", f"127.0.0.1:{server.port}"), (f"/etc/ssl/{SITE}.pem", cert), (f"/etc/ssl/{SITE}.key", key))
        conf = os.path.join(folder, "nginx-stream.conf")
        module = "/usr/lib/nginx/modules/ngx_stream_module.so"
        with open(conf, "w", encoding="utf-8") as file:
            file.write(f"load_module {module}; daemon off; user root; pid {folder}/pid; error_log stderr; events {{}} {text}")
        run("nginx", "-t", "-c", conf)
        with Program("nginx", "-c", conf, port=port):
            asyncio.run(proxied_client(port, context, server))
        assert server.metric('lobbyd_proxy_headers_total{origin="client"}') >= 2


async def address_through(port, context, servers):
    probe = await open_page(port, context, "chess", "probe")
    await probe.expect("welcome", user="probe")
    server = next(server for server in servers if "chess" in str(server.ask("/lobbies")))
    await probe.close()
    await talk_through(port, context, server)


def systemd_unit(binary, folder):
    """The unit is well-formed and hardened, and its filter allows every system call that lobbyd makes."""
    unit = os.path.join(folder, "lobbyd.service")
    shutil.copy(os.path.join(FILES, "lobbyd.socket"), folder)
    with open(unit, "w", encoding="utf-8") as file:
        file.write(replace(read("lobbyd.service"), ("/usr/local/bin/lobbyd", os.path.abspath(binary))))
    complaints = run("systemd-analyze", "verify", "--man=no", unit, os.path.join(folder, "lobbyd.socket"))
    assert "lobbyd" not in complaints, complaints
    report = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    exposure = float(re.search(r"exposure level for \S+ ([0-9.]+)", report).group(1))
    assert exposure < 2.0, report
    print(f"       systemd-analyze security: {exposure}", flush=True)
    allowed, denied = filtered("@system-service"), filtered("@privileged")
    trace = os.path.join(folder, "trace")
    traced = os.path.join(folder, "traced")
    with open(traced, "w", encoding="utf-8") as file:
        # -D: the process is lobbyd itself, and gets the signals.
        file.write(f'#!/bin/sh\nexec strace -D -f -o "{trace}" "{os.path.abspath(binary)}" "$@"\n')
    os.chmod(traced, 0o755)
    with Lobbyd(traced, "--admin", "127.0.0.1:0") as server:
        asyncio.run(say_hello(server))

    def traced_calls():
        with open(trace, encoding="utf-8") as lines:
            return lines.read()

    # strace writes its last lines after lobbyd has ended.
    wait_until(lambda: re.search(rf"^{server.pid} +\+\+\+ ", traced_calls(), re.MULTILINE))
    calls = {match.group(1) for match in re.finditer(r"^\d+ +([a-z0-9_]+)\(", traced_calls(), re.MULTILINE)}
    assert {"accept4", "epoll_wait"} & calls, calls
    assert not calls - allowed | calls & denied, (calls - allowed, calls & denied)


def filtered(group):
    """The system calls in a group of systemd's filters, with those of the groups in it."""
    calls = set()
    for line in run("systemd-analyze", "syscall-filter", "--no-pager", group).splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            calls |= filtered(word)
        elif word and not word.startswith("#"):
            calls.add(word)
    return calls


async def say_hello(server):
    client = await Python().open(server.url("chess", "ann"))
    await client.expect("welcome", user="ann")
    await client.close()


def socket_activation(binary, folder):
    """systemd's own tool opens the socket and starts lobbyd at the first connection."""
    port = free_port()
    command = ["systemd-socket-activate", "--listen", f"127.0.0.1:{port}", os.path.abspath(binary)]
    with Program(*command, port=port) as program:
        asyncio.run(say_hello(Address(port)))
    assert f"listening on 127.0.0.1:{port}" in program.text, program.text


class Address:
    def __init__(self, port):
        self.port = port

    url = Lobbyd.url


class Generation:
    """A lobbyd that was given a listening socket, as systemd gives it."""

    def __init__(self, binary, listener):
        self.log = tempfile.TemporaryFile()
        # LISTEN_PID is the number of the process itself, which the shell becomes.
        command = 'export LISTEN_PID=$$; exec "$0" --drain-deadline 10s --stats-interval off'
        fd = listener.fileno()
        self.process = subprocess.Popen(
            ["sh", "-c", command, os.path.abspath(binary)], env={**os.environ, "LISTEN_FDS": "1"}, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, pass_fds=[3], preexec_fn=lambda: os.dup2(fd, 3))

    async def listens(self):
        """Waits until it is ready: a signal that came before would kill it."""
        await asyncio.to_thread(wait_until, lambda: "listening on" in self.text())

    def text(self):
        # The process writes at the file's position, which stays where it is.
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")


async def connect_all_the_time(port, user, outcomes, end):
    """Connects again and again. Every attempt ends in a welcome, however long it waits for it."""
    while not end.is_set():
        try:
            client = await Python().open(f"ws://127.0.0.1:{port}/ws/{user}?token={user}", open_timeout=SECONDS)
            welcome = json.loads(await client.next(SECONDS))
            outcomes.append(welcome["type"])
            await client.close()
        except InvalidStatus as refused:
            outcomes.append(refused.response.status_code)
        except Exception as refused:
            outcomes.append(repr(refused))


def restart(binary, folder):
    """No connection is refused while lobbyd is restarted three times under its socket."""
    for attempt in attempts():
        outcomes = restart_three_times(binary)
        # A process that drains waits half a second for the request of a connection, and answers a later one with 503.
        late = outcomes.count(503)
        refused = [outcome for outcome in outcomes if outcome not in ("welcome", 503)]
        print(f"       {len(outcomes)} connections over 3 restarts, {late + len(refused)} refused", flush=True)
        assert not refused, refused[:5]
        attempt.check(late == 0, f"{late} of {len(outcomes)} connections were answered with 503")


def restart_three_times(binary):
    """Returns the outcomes of connections in the meantime."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    listener.set_inheritable(True)
    port = listener.getsockname()[1]
    generations = []

    async def serve(outcomes):
        """Serves for a while, and at least 50 connections."""
        generations.append(Generation(binary, listener))
        await generations[-1].listens()
        most, end = len(outcomes) + 50, time.monotonic() + SECONDS
        await asyncio.sleep(0.7)
        while len(outcomes) < most:
            assert time.monotonic() < end, f"{len(outcomes)} outcomes, the last: {outcomes[-5:]}"
            await asyncio.sleep(0.05)

    async def stop():
        generations[-1].process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(generations[-1].process.wait, SECONDS)
        assert code == 0, f"it ended with {code}:\n{generations[-1].text()[-2000:]}"

    async def play():
        outcomes, end = [], asyncio.Event()
        talkers = [asyncio.create_task(connect_all_the_time(port, f"user-{n}", outcomes, end)) for n in range(20)]
        for _ in range(3):
            await serve(outcomes)
            await stop()
        await serve(outcomes)
        end.set()
        await asyncio.gather(*talkers)
        await stop()
        return outcomes

    try:
        return asyncio.run(play())
    finally:
        listener.close()
        for generation in generations:
            if generation.process.poll() is None:
                generation.process.kill()
                generation.process.wait()


def main():
    binary = sys.argv[1] if len(sys.argv) > 1 else default_binary()
    failed = 0
    for test in [systemd_unit, socket_activation, restart, nginx, nginx_stream, caddy, haproxy, haproxy_tcp]:
        try:
            with tempfile.TemporaryDirectory(prefix="lobbyd-deploy-") as folder:
                test(binary, folder)
            print(f"ok     {test.__name__}", flush=True)
        # Also what a library raises: the next test runs all the same.
        except Exception:
            failed += 1
            print(f"FAILED {test.__name__}\n{traceback.format_exc()}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
