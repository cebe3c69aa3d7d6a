#!/usr/bin/env python3
"""Cuts 10,000 members with sessions at once, and measures how long it takes until all of them are back.

    tests/clients/run --resume-load [--members 10000] [path/to/lobbyd]

The members sit in lobbies of 10. Each sends a message every ten seconds on average, and keeps its position. Then all their connections are
reset; each comes back after a random wait below half a second, and tries again after a growing wait if the server is too busy for it
(503), as the guide tells clients. All must be resumed within 10 s of the cut with `recovered: true`, nobody may be refused by a limit
(429, 4002), and all receive every message of the others exactly once. Unrelated pairs of
members send messages to and fro all the time: the 99th percentile of their round trips must be below 50 ms from the cut until all
are back. If it is not, everything is measured again, twice at most.

Standard library only. The members and the pairs are in other processes than this one. The members connect from several addresses
of the loopback network, as behind several routers; the limits of attempts have their defaults.
"""

import argparse
import collections
import heapq
import itertools
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import time

from frames import CLOSE, PING, PONG, TEXT, frame, frames, read_some, request
from idle import Bounds, cpu_seconds, raise_priority, resident_bytes
from lobbyd import Lobbyd, default_binary

LOBBY_SIZE = 10
PROCESSES = 2
ADDRESSES = 8                   # for each process
OPENING_AT_ONCE = 100           # only before the cut
SEND_EVERY = 10.0               # mean seconds between two messages of a member
BACKOFF = 0.5                   # seconds: the longest wait before the first attempt
TALK_SECONDS = 4.0              # before the cut
BACK_SECONDS = 10.0
P99_MS = 50.0
PAIRS = 10                      # so that the rate of one member allows a round trip every 2 ms


class Member:
    def __init__(self, number, address):
        self.number, self.address = number, address
        self.session = f"session-of-member-{number:08}"
        self.position = None            # (epoch, seq)
        self.sock, self.partial = None, b""
        self.state = "closed"           # connecting, upgrading, open
        self.ref = 0
        self.pending = {}               # by ref: the frame
        self.numbers = collections.Counter()    # by sender: the last number; the next must be one more
        self.received = 0
        self.welcomes = []
        self.returned_at = None
        self.attempts = 0               # to come back
        self.awaits_state = False


class Members:
    """A share of the members, on one epoll, in a process of its own. It takes commands of one line each."""

    def __init__(self, port, share, first, count):
        self.port, self.first, self.count = port, first, count
        self.random = random.Random(f"resume load {first}")
        self.epoll = select.epoll()
        self.members = [Member(first + n, f"127.0.{share + 1}.{1 + n % ADDRESSES}") for n in range(count)]
        self.by_fd = {}
        self.opening = self.open = 0
        self.problems = collections.Counter()
        self.cut_at = None
        self.waiting = []               # heap of (when, number of the member), after the cut
        self.failed = collections.Counter()     # attempts to come back that were not admitted
        self.sent = 0

    # ---- connections ----

    def connect(self, member):
        sock = member.sock = socket.socket()
        sock.setblocking(False)
        sock.bind((member.address, 0))
        self.by_fd[sock.fileno()] = member
        member.state, member.partial = "connecting", b""
        self.opening += 1
        sock.connect_ex(("127.0.0.1", self.port))
        self.epoll.register(sock.fileno(), select.EPOLLOUT)

    def request(self, member):
        position = ""
        if member.position:
            position = "&epoch={}&seq={}&n=0".format(*member.position)
        query = f"&session={member.session}{position}"
        return request(self.port, f"load-{member.number // LOBBY_SIZE}", f"user-{member.number}", query)

    def turn(self, seconds):
        for fd, event in self.epoll.poll(seconds, 1024):
            member = self.by_fd.get(fd)
            if member is None:
                continue
            if member.state == "connecting":
                error = member.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    self.lose(member, os.strerror(error))
                    continue
                member.state = "upgrading"
                member.sock.send(self.request(member))
                self.epoll.modify(fd, select.EPOLLIN)
            else:
                self.readable(member)

    def readable(self, member):
        try:
            data = read_some(member.sock)
        except OSError as error:
            return self.lose(member, error.strerror)
        if data is None:
            return
        if not data:
            return self.lose(member, "the connection ended")
        data = member.partial + data
        if member.state == "upgrading":
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                member.partial = data
                return
            status = head.split(b"\r\n")[0]
            if b" 101 " not in status:
                return self.lose(member, status.decode(errors="replace"))
            member.state, data = "open", rest
        found, member.partial = frames(data)
        for opcode, payload in found:
            if opcode == TEXT:
                self.receive(member, json.loads(payload))
            elif opcode == PING:
                self.send(member, PONG, payload)
            elif opcode == CLOSE:
                return self.lose(member, f"close {int.from_bytes(payload[:2], 'big')} {payload[2:].decode(errors='replace')}")

    def send(self, member, opcode, payload):
        try:
            member.sock.send(frame(opcode, payload))
        except OSError as error:
            self.problems[f"sending: {error.strerror}"] += 1

    def come_back(self, member):
        """Waits as the guide tells clients, and connects."""
        wait = self.random.random() * BACKOFF * 2 ** member.attempts
        heapq.heappush(self.waiting, (time.monotonic() + wait, member.number))
        member.attempts += 1

    def lose(self, member, why):
        """A connection that this process has not cut is an error. An attempt that the server is too busy for is made again."""
        if self.cut_at and member.state in ("connecting", "upgrading") and "HTTP/1.1 4" not in why:
            self.failed[why] += 1
            self.come_back(member)
        else:
            self.problems[("after the cut: " if self.cut_at else "before the cut: ") + why] += 1
        self.opening -= member.state in ("connecting", "upgrading") or member.awaits_state
        member.awaits_state = False
        member.state = "closed"
        del self.by_fd[member.sock.fileno()]
        member.sock.close()

    # ---- messages ----

    def receive(self, member, message):
        kind, seq = message["type"], message.get("seq")
        if kind == "welcome":
            member.welcomes.append(message)
            member.epoch = message["epoch"]
            member.awaits_state = True
            if message["resumed"]:
                done, refused = message["done"], int(message["refused"], 16)
                for ref in [ref for ref in member.pending if ref <= done]:
                    if refused >> (done - ref) & 1:
                        self.problems["a request was refused"] += 1
                    del member.pending[ref]
            for ref in member.pending:
                self.send(member, TEXT, member.pending[ref])
            return
        if kind == "presence_state" and member.awaits_state:
            member.awaits_state = False
            self.opening -= 1
            if self.cut_at is not None:
                member.returned_at = time.monotonic()
        elif kind == "message":
            self.number(member, message)
        elif kind in ("ack", "error"):
            member.pending.pop(message["ref"], None)
            if kind == "error":
                self.problems[f"error {message['code']}"] += 1
        if seq is not None:
            if kind != "presence_state" and member.position and seq <= member.position[1]:
                self.problems["a number came twice, or out of order"] += 1
            member.position = (member.epoch, seq)

    def number(self, member, message):
        sender, number = message["from"], message["data"]
        if number != member.numbers[sender] + 1:
            self.problems["a message came twice" if number <= member.numbers[sender] else "messages were lost"] += 1
        member.numbers[sender] = number
        member.received += 1

    def say(self):
        member = self.random.choice(self.members)
        if member.state != "open" or member.awaits_state or not member.welcomes or len(member.pending) >= 16:
            return
        member.ref += 1
        self.sent += 1
        text = member.pending[member.ref] = json.dumps({"type": "broadcast", "data": member.ref, "ref": member.ref}).encode()
        self.send(member, TEXT, text)

    def missing(self):
        """Number of messages that members have not received from the others of their lobbies, which are complete here."""
        by_lobby = collections.Counter()
        for member in self.members:
            by_lobby[member.number // LOBBY_SIZE] += member.ref
        return sum(by_lobby[member.number // LOBBY_SIZE] - member.ref - member.received for member in self.members)

    # ---- phases ----

    def start(self):
        """Opens all connections. Nobody sends anything yet, so that every member gets every message."""
        todo = list(reversed(self.members))
        end = time.monotonic() + 120
        while (todo or self.opening) and time.monotonic() < end:
            while todo and self.opening < OPENING_AT_ONCE:
                self.connect(todo.pop())
            self.turn(0.1)

    def talk(self, until, is_done=lambda: False):
        step = SEND_EVERY / self.count
        next_send = time.monotonic()
        while (now := time.monotonic()) < until and not is_done():
            while next_send < now:
                self.say()
                next_send += step
            while self.waiting and self.waiting[0][0] <= now:
                self.connect(self.members[heapq.heappop(self.waiting)[1] - self.first])
            self.turn(0.002)

    def cut(self):
        for member in self.members:
            if member.state == "open":
                member.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut_at = time.monotonic()
        for member in self.members:
            if member.state == "open":
                member.sock.close()
                member.state, member.partial, member.awaits_state = "closed", b"", False
        self.by_fd.clear()
        for member in self.members:
            self.come_back(member)

    def serve(self, commands, answers):
        answer = lambda **fields: (answers.write(json.dumps(fields) + "\n"), answers.flush())
        self.start()
        answer(welcomed=sum(bool(member.welcomes) for member in self.members), problems=self.problems)
        commands.readline()
        self.talk(time.monotonic() + TALK_SECONDS)
        answer(sent=self.sent)
        commands.readline()
        self.cut()
        is_back = lambda: not self.waiting and not self.opening
        self.talk(self.cut_at + 120, is_back)
        back = [member.returned_at - self.cut_at for member in self.members if member.returned_at]
        answer(back=back, failed=self.failed)
        commands.readline()
        # What was sent last arrives; nothing new is sent.
        end = time.monotonic() + 60
        while time.monotonic() < end and (self.missing() > 0 or any(member.pending for member in self.members)):
            self.turn(0.1)
        # Nothing comes twice.
        for _ in range(20):
            self.turn(0.05)
        missing = self.missing()
        again = [member.welcomes[-1] for member in self.members if len(member.welcomes) == 2]
        answer(resumed=sum(welcome["resumed"] for welcome in again), recovered=sum(welcome["recovered"] for welcome in again),
               replayed=sum(welcome["replay"] for welcome in again), received=sum(member.received for member in self.members),
               missing=missing, unanswered=sum(len(member.pending) for member in self.members), sent=self.sent,
               problems=self.problems)


class Pairs:
    """Pairs of members that send a message to and fro, one after the other. Runs in a process of its own."""

    def __init__(self, port):
        self.port = port
        self.trips = []                 # (when, seconds)

    def connect(self, lobby, user):
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(request(self.port, f"pair-{lobby}", f"{user}-{lobby}"))
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(1)
        return [sock, b""]

    def wait(self, peer, kind):
        while True:
            found, peer[1] = frames(peer[1])
            for opcode, payload in found:
                if opcode == PING:
                    peer[0].send(frame(PONG, payload))
                if opcode == TEXT and b'"type":"%s"' % kind in payload:
                    return
            data = peer[0].recv(65536)
            if not data:
                raise ConnectionError("a pair lost its connection")
            peer[1] += data

    def serve(self, commands, answers):
        pairs = []
        for n in range(PAIRS):
            pairs.append((self.connect(n, "ann"), self.connect(n, "bob")))
            self.wait(pairs[n][1], b"presence_state")
        is_over = select.epoll()
        is_over.register(commands.fileno(), select.EPOLLIN)
        answers.write("ready\n")
        answers.flush()
        for ann, bob in itertools.cycle(pairs):
            if is_over.poll(0):
                break
            begun = time.monotonic()
            for sender, receiver in (ann, bob), (bob, ann):
                sender[0].sendall(frame(TEXT, b'{"type":"broadcast","data":"ping"}'))
                self.wait(receiver, b"message")
            self.trips.append((begun, time.monotonic() - begun))
            time.sleep(max(0, 0.02 / PAIRS * 1.1 - (time.monotonic() - begun)))
        answers.write(json.dumps(self.trips) + "\n")
        answers.flush()


class Process:
    """A forked process with a line of commands and a line of answers."""

    def __init__(self, serve):
        commands_in, commands_out = os.pipe()
        answers_in, answers_out = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.close(commands_out)
                os.close(answers_in)
                serve(os.fdopen(commands_in, "r"), os.fdopen(answers_out, "w"))
                status = 0
            except BaseException:           # the parent's blocks must not run in this process
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        os.close(commands_in)
        os.close(answers_out)
        self.commands, self.answers = os.fdopen(commands_out, "w", buffering=1), os.fdopen(answers_in, "r")

    def tell(self):
        self.commands.write("go\n")

    def answer(self):
        line = self.answers.readline()
        if not line:
            sys.exit("resume_load.py: a process of the members ended")
        return json.loads(line)

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("lobbyd", nargs="?", default=default_binary())
    options.add_argument("--members", type=int, default=10_000)
    args = options.parse_args()
    raise_priority()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))        # lobbyd inherits it
    # The old sockets may still be closing when the members are back.
    if hard < 2 * args.members - 100:
        print(f"resume_load.py: {args.members} members may need {2 * args.members} descriptors, ulimit -Hn is {hard}", file=sys.stderr)
    bounds = Bounds()
    for attempt in bounds.attempts():
        cut_and_resume(args, bounds, attempt)
    return 0 if bounds.passed else 1


def cut_and_resume(args, bounds, attempt):
    processes, lobbies = [], -(-args.members // LOBBY_SIZE)
    with Lobbyd(args.lobbyd, "--max-connections", args.members + 100, "--max-lobbies", lobbies + PAIRS, "--max-per-lobby", LOBBY_SIZE) as server:
        try:
            pair = Process(Pairs(server.port).serve)
            processes.append(pair)
            if pair.answers.readline() != "ready\n":
                sys.exit("resume_load.py: the pairs could not connect")
            shares = [lobbies * n // PROCESSES * LOBBY_SIZE for n in range(PROCESSES)] + [args.members]
            crowds = []
            for n in range(PROCESSES):
                crowds.append(Process(Members(server.port, n, shares[n], shares[n + 1] - shares[n]).serve))
                processes.append(crowds[n])
            measure(args, bounds, attempt, server, pair, crowds)
        finally:
            for process in processes:
                process.end()
        server.terminate()
        code = server.exit_code(40)
        bounds.check(f"exit code {code} after SIGTERM", code == 0)


def measure(args, bounds, attempt, server, pair, crowds):
    def everybody():
        return [crowd.answer() for crowd in crowds]

    def go():
        for crowd in crowds:
            crowd.tell()

    started = everybody()
    welcomed, problems = sum(one["welcomed"] for one in started), [one["problems"] for one in started if one["problems"]]
    bounds.check(f"{welcomed} of {args.members} members joined, problems {problems}", welcomed == args.members and not problems)
    memory = resident_bytes(server.pid)
    go()
    everybody()
    cpu, cut_at = cpu_seconds(server.pid), time.monotonic()
    go()
    answers = everybody()
    back = [one for crowd in answers for one in crowd["back"]]
    failed = sum((collections.Counter(crowd["failed"]) for crowd in answers), collections.Counter())
    back_at, cpu = time.monotonic(), cpu_seconds(server.pid) - cpu
    pair.tell()
    trips = pair.answer()
    go()
    ends = everybody()
    total = {key: sum(one[key] for one in ends) for key in ends[0] if key != "problems"}
    problems = collections.Counter()
    for one in ends:
        problems.update(one["problems"])
    last = max(back, default=float("inf"))
    bounds.check(f"{len(back)} members came back; {cpu:.2f} s of CPU time of the server", len(back) == args.members)
    attempt.check(last <= BACK_SECONDS, f"all members were back within {last:.2f} s of the cut (half of them within "
                                        f"{percentile(back, 0.5):.2f} s), at most {BACK_SECONDS:g} s")
    print(f"       {sum(failed.values())} attempts were made again after a growing wait: {dict(failed) or 'none'}")
    bounds.check(f"{total['resumed']} resumed, {total['recovered']} recovered, {total['replayed']} frames replayed",
                 total["resumed"] == total["recovered"] == args.members and total["replayed"] > 0)
    bounds.check(f"{total['sent']} messages sent, {total['received']} received, {total['missing']} missing, {total['unanswered']} unanswered",
                 total["missing"] == total["unanswered"] == 0 < total["received"])
    bounds.check(f"refused, lost or doubled: {dict(problems) or 'none'}", not problems)
    during = [seconds * 1000 for when, seconds in trips if cut_at <= when <= back_at]
    before = [seconds * 1000 for when, seconds in trips if when < cut_at]
    p99 = percentile(during, 0.99) if during else float("inf")
    if during and before:
        print(f"       unrelated pairs: {len(during)} round trips meanwhile, median {percentile(during, 0.5):.2f} ms, p99 {p99:.1f} ms, "
              f"longest {max(during):.1f} ms; before the cut p99 {percentile(before, 0.99):.1f} ms")
    attempt.check(p99 < P99_MS, f"p99 of the unrelated pairs {p99:.1f} ms, below {P99_MS:g} ms")
    print(f"       {(resident_bytes(server.pid) - memory) / 1024 / 1024:+.1f} MiB of resident memory since all had joined "
          f"({memory / 1024 / 1024:.1f} MiB)")


if __name__ == "__main__":
    sys.exit(main())
