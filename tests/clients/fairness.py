#!/usr/bin/env python3
"""Measures the effect of floods, by one client and by a hundred, on the latency of an unrelated pair of members.

    tests/clients/fairness.py [--seconds 6] [--kinds pings,connects] [--clients 1,100] [--deflate] [path/to/lobbyd]

The flooding clients are in a lobby with 300 silent members, and reconnect at once when they are closed. The pair is in another
lobby; a round trip is a message and its reply, through the server twice. The server has one core to itself, the flooding clients
the other. Prints a table; exit 0 only if the 99th percentile of the round trips is below 50 ms in one of three measurements, and the
server's memory is always below the bound that it logs at the start.

With --deflate, the floods are compressed messages. Each flooding client has a lobby of its own, and the silent members are divided
among them and take compressed messages. So the server compresses a broadcast for each message. The program must be built with the
feature deflate.

Needs Linux, two cores and a Rust toolchain, for the flooding clients (benches/peers/flood). Standard library only.
"""

import argparse
import os
import random
import re
import socket
import subprocess
import sys
import time
import zlib

from attempts import attempts
from frames import TEXT, frames, request
from lobbyd import Lobbyd, default_binary

MAX_P99_MS = 50.0
CROWD = 300
EVERY = 0.02                    # seconds between round trips; below the message rate
KINDS = ["none", "pings", "pongs", "empty-fragments", "byte-fragments", "tiny-messages", "json-messages", "64k-messages",
         "no-json", "rubbish", "half-handshakes", "connects"]
SIZE = 65_536                   # max_message_bytes
# What the messages of a compressed flood contain. Digits take longer to compress than bytes that do not become shorter.
CONTENTS = {
    "compressed-bombs": lambda: b"x" * SIZE,
    "compressed-digits": lambda: random.Random(1).randbytes(SIZE // 2).hex().encode(),
    "compressed-noise": lambda: random.Random(1).randbytes(SIZE),
    "compressed-small": lambda: random.Random(1).randbytes(150).hex().encode(),
}
ARGUMENTS = ["--max-connections", 1000, "--max-per-lobby", 500, "--max-pending", 256, "--log", "warn,lobbyd=info"]


def core_of_server():
    return min(os.sched_getaffinity(0))


def core_of_clients():
    """Another core than that of the server, if this process may use two."""
    return max(os.sched_getaffinity(0))


def build():
    package = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../benches/peers/flood")
    subprocess.run(["cargo", "build", "--quiet", "--release", "--manifest-path", os.path.join(package, "Cargo.toml")],
                   check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(package, "target"))
    return os.path.join(target, "release/flood")


def compressed(contents):
    """Returns the payload of a compressed message (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (compressor.compress(contents) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Member:
    def __init__(self, port, user):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(30)
        self.socket.sendall(request(port, "pair", user))
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            received = self.socket.recv(65536)
            assert received, "the server has refused a member of the pair"
            self.data += received
        self.data = self.data.split(b"\r\n\r\n", 1)[1]

    def send(self, text):
        payload = text.encode()
        self.socket.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def receive(self, text):
        while True:
            found, self.data = frames(self.data)
            if any(opcode == TEXT and text in payload for opcode, payload in found):
                return
            received = self.socket.recv(65536)
            if not received:
                raise AssertionError("the server has closed a member of the pair")
            self.data += received


def round_trips(ann, bob, seconds):
    times, end, n = [], time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += 1
        begin = time.monotonic()
        ann.send('{"type":"broadcast","data":"there %d."}' % n)
        bob.receive(b"there %d." % n)
        bob.send('{"type":"broadcast","data":"back %d."}' % n)
        ann.receive(b"back %d." % n)
        times.append(time.monotonic() - begin)
        time.sleep(max(0.0, begin + EVERY - time.monotonic()))
    return sorted(times)


def measure(binary, flood, kind, clients, seconds, arguments, cores):
    """`cores`: that of the server, that of the clients. Returns the round trips in ms (median, 99th percentile, maximum) and their
    number, the server's peak memory and its bound in MiB, and the output of the flooding clients."""
    with Lobbyd(binary, *ARGUMENTS, *arguments) as server:
        os.sched_setaffinity(server.pid, {cores[0]})
        bound = int(server.wait_for_log(r"worst-case memory with these limits: (\d+) MiB", 60).group(1))
        # Before the flood: connections without a seat can displace others of the same address, and all share one address here.
        ann, bob = Member(server.port, "ann"), Member(server.port, "bob")
        flooders = None
        if kind != "none":
            name = "compressed" if kind in CONTENTS else kind
            command = [flood, name, clients, server.port, CROWD, int(seconds) + 2]
            flooders = subprocess.Popen(["nice", "-n", "19", "taskset", "-c", str(cores[1]), *map(str, command)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert flooders.stdout.readline() == b"ready\n"
            if kind in CONTENTS:
                flooders.stdin.write(compressed(CONTENTS[kind]()))
            flooders.stdin.close()
            time.sleep(1)
        try:
            times = round_trips(ann, bob, seconds)
            output = flooders.stdout.read().decode().strip() if flooders else ""
        finally:
            if flooders:
                flooders.kill()
                flooders.wait()
        with open(f"/proc/{server.pid}/status", encoding="ascii") as status:
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1)) // 1024
    at = lambda quantile: 1000 * times[min(len(times) - 1, int(quantile * len(times)))]
    return at(0.5), at(0.99), 1000 * times[-1], len(times), peak, bound, output


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--kinds")
    parser.add_argument("--clients", default="1,100")
    parser.add_argument("--deflate", action="store_true")
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    options = parser.parse_args()
    flood = build()
    cores = core_of_server(), core_of_clients()
    os.sched_setaffinity(0, {cores[1]})
    kinds = options.kinds.split(",") if options.kinds else ["none", *CONTENTS] if options.deflate else KINDS
    arguments = ["--deflate", "on"] if options.deflate else []
    print(f"{'flood':17} {'clients':>7} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'trips':>6} {'peak MiB':>9}  flooders")
    failed = []
    for kind in kinds:
        for clients in options.clients.split(",") if kind != "none" else ["0"]:
            try:
                for attempt in attempts():
                    median, p99, longest, count, peak, bound, output = \
                        measure(options.lobbyd, flood, kind, clients, options.seconds, arguments, cores)
                    print(f"{kind:17} {clients:>7} {median:8.2f} {p99:8.2f} {longest:8.2f} {count:6} {peak:4} /{bound:4}  {output}",
                          flush=True)
                    assert peak < bound, f"{peak} MiB of memory, and the bound is {bound} MiB"
                    attempt.check(p99 < MAX_P99_MS, f"99 % within {p99:.2f} ms")
            except AssertionError as error:
                failed.append(f"{kind} by {clients} ({error})")
    print(f"failed: {', '.join(failed)}" if failed else "all bounds passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
