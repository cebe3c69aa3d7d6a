#!/usr/bin/env python3
"""A cluster under faults: three nodes, a Redis, and members that talk, in lobbies that span the nodes.

    tests/clients/run --cluster [--seconds 600] [--members 3000] [--seed N] [path/to/lobbyd]

The members are those of `sessions.py`. Each connection goes to a node at random, directly or through a proxy that cuts and delays it;
so does the connection of each node to Redis. While the members talk, in random order and until the time is over:

- a node is killed and comes back, is stopped for a moment or for longer than its lease, or drains and comes back;
- the connections of Redis are killed, Redis pauses for a moment or for longer than the lease, is restarted with what it has saved, is
  killed and restarted with what it saved a moment before, is replaced by an older copy of its data, or begins empty.

When all faults have ended, the books of all members are compared: see `session_books.py`. All nodes must answer the same to
operators about lobbies, members and users, and must have exited with 0 after a drain. Each node's journal must replay. Exit 0 only if nothing is lost or doubled, and nothing else is wrong.

The members are in several processes. The default takes ten minutes.
"""

import argparse
import collections
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time

import cluster_members
from drain import get
from faulty_proxy import Proxy
from lobbyd import Lobbyd, default_binary
from redis_process import Redis
from sessions import SERVER_ARGS, listed

NODES = ["a", "b", "c"]
MEMBER_FAULT_EVERY = 20.0           # mean seconds between two faults of a member's connection through a proxy
LINK_FAULT_EVERY = 15.0             # the same for a node's connection to Redis
JOIN_SECONDS, SETTLE_SECONDS = 300, 600
USERS_ASKED = 100
ATTEMPTS = 40                       # to get the same answer from all nodes
SHARED = {"lobby", "members", "away", "locked", "epoch", "seq", "user", "conn"}     # what operators may ask any node
COPY_EVERY = 2.0                    # seconds between two copies of Redis' data


class Node:
    """One node, in each of its lives."""

    def __init__(self, name, rig):
        self.name, self.rig = name, rig
        self.socket = os.path.join(rig.folder, f"{name}.sock")
        self.link = rig.proxy(rig.redis.socket, f"link {name}", LINK_FAULT_EVERY)
        self.proxy = rig.proxy(self.socket, f"members {name}", MEMBER_FAULT_EVERY)
        self.lives, self.logs = 0, []
        self.server = self.operators = None
        self.is_up = False

    def journal(self):
        return os.path.join(self.rig.options.keep or self.rig.folder, f"{self.name}.journal")

    def start(self):
        self.lives += 1
        args = list(SERVER_ARGS)
        args[args.index("--max-connections") + 1] = self.rig.options.members + 1000
        # So that at any time almost all members are connected, which is waited for at the end.
        args[args.index("--max-lifetime") + 1] = f"{60 * max(1, self.rig.options.members // 300)}s"
        args[args.index("--seat-grace") + 1] = f"{self.rig.options.grace:g}s"
        args += ["--cluster", self.redis_url(), "--node", self.name, "--cluster-lease", f"{self.rig.options.lease:g}s",
                 "--attempts-per-minute", "unlimited", "--log", self.rig.options.log]
        if self.rig.options.journals == "on":
            args += ["--journal", self.journal()]
        self.server = Lobbyd(self.rig.options.lobbyd, *args, listen=f"127.0.0.1:0,unix:{self.socket}")
        self.operators = int(self.server.wait_for_log(r"admin API on http://127\.0\.0\.1:(\d+)", 60).group(1))
        self.set_up(True)

    def redis_url(self):
        return f"redis://127.0.0.1:{self.link.port}" if self.rig.options.links == "faulty" else f"unix:{self.rig.redis.socket}"

    def set_up(self, is_up):
        self.is_up = is_up
        self.rig.announce()

    def wait_until_attached(self, seconds):
        self.server.wait_for_log("attached to the cluster as", seconds)

    def end(self, number):
        """Ends the process. Returns its exit code."""
        self.set_up(False)
        self.server.signal(number)
        code = self.server.exit_code(120)
        self.keep_log()
        return code

    def keep_log(self):
        self.logs.append(self.server.log())
        if self.rig.options.keep:
            with open(os.path.join(self.rig.options.keep, f"{self.name}-{self.lives}.log"), "w", encoding="utf-8") as file:
                file.write(self.logs[-1])
        self.server.close()


class Faults:
    """Two sequences of faults at the same time: of the nodes, one after the other so that two are well, and of Redis."""

    def __init__(self, rig):
        self.rig, self.counts, self.is_over = rig, collections.Counter(), threading.Event()
        self.threads = [threading.Thread(target=self.play, args=(name, faults)) for name, faults in (
            ("nodes", [self.kill_node, self.stop_node, self.stop_node_for_long, self.drain_node]),
            ("redis", [self.kill_connections, self.pause_redis, self.pause_redis_for_long, self.pause_clients, self.restart_redis,
                       self.crash_redis, self.replace_redis, self.empty_redis]))]
        self.copies = threading.Thread(target=self.copy)
        self.redis_lock = threading.Lock()

    def start(self):
        for thread in (*self.threads, self.copies):
            thread.start()

    def end(self):
        self.is_over.set()
        for thread in (*self.threads, self.copies):
            thread.join()

    def play(self, name, faults):
        """Each fault once, in random order, and again."""
        rng = random.Random(f"{self.rig.options.seed} {name}")
        left = []
        only = self.rig.options.faults
        faults = [fault for fault in faults if not only or fault.__name__ in only.split(",")]
        while faults and not self.is_over.wait(rng.expovariate(1 / self.rig.options.pause)):
            left = left or rng.sample(faults, len(faults))
            fault = left.pop()
            # If all nodes lose their place, the lobbies are gone: this one may only meet a node while the others are well.
            if name == "nodes" and not self.all_have_a_place():
                left.append(fault)
                continue
            self.counts[fault.__name__.replace("_", " ")] += 1
            self.rig.note(fault.__name__)
            try:
                fault(rng)
            except Exception as error:
                self.rig.problem(f"{fault.__name__}: {error!r}")
                return

    # ---- nodes ----

    def all_have_a_place(self):
        try:
            return all(" 200 " in get(node.operators, "/health/ready")[0][0] for node in self.rig.nodes)
        except OSError:
            return False

    def kill_node(self, rng):
        node = rng.choice(self.rig.nodes)
        node.end(signal.SIGKILL)
        self.is_over.wait(rng.random() * 2 * self.rig.options.lease)
        self.come_back(node)

    def drain_node(self, rng):
        node = rng.choice(self.rig.nodes)
        code = node.end(signal.SIGTERM)
        if code not in (0, 3):
            self.rig.problem(f"node {node.name} ends with {code} after SIGTERM")
        self.counts[f"drains with exit code {code}"] += 1
        self.come_back(node)

    def come_back(self, node):
        node.start()
        node.wait_until_attached(60)

    def stop_node(self, rng):
        self.stop(rng.choice(self.rig.nodes), rng.random() * self.rig.options.lease * 0.5)

    def stop_node_for_long(self, rng):
        self.stop(rng.choice(self.rig.nodes), self.rig.options.lease * (1.5 + rng.random()))

    def stop(self, node, seconds):
        node.server.signal(signal.SIGSTOP)
        time.sleep(seconds)
        node.server.signal(signal.SIGCONT)

    # ---- Redis ----

    def copy(self):
        while not self.is_over.wait(COPY_EVERY):
            if self.redis_lock.acquire(timeout=0.01):
                try:
                    self.rig.redis.keep_copy()
                finally:
                    self.redis_lock.release()

    def kill_connections(self, _rng):
        # Not the one that saves a copy.
        with self.redis_lock:
            self.rig.redis.call("CLIENT", "KILL", "TYPE", "normal")
            self.rig.redis.call("CLIENT", "KILL", "TYPE", "pubsub")

    def pause_redis(self, rng):
        self.pause(rng.random() * self.rig.options.lease * 0.5)

    def pause_redis_for_long(self, rng):
        self.pause(self.rig.options.lease * (1.2 + rng.random()))

    def pause(self, seconds):
        with self.redis_lock:
            self.rig.redis.signal(signal.SIGSTOP)
            time.sleep(seconds)
            self.rig.redis.signal(signal.SIGCONT)

    def pause_clients(self, rng):
        with self.redis_lock:
            seconds = rng.random() * self.rig.options.lease
            self.rig.redis.call("CLIENT", "PAUSE", int(seconds * 1000), "ALL")
            time.sleep(seconds)

    def restart_redis(self, rng):
        """With everything that it has answered."""
        with self.redis_lock:
            self.rig.redis.call("CLIENT", "PAUSE", 10000, "WRITE")
            self.rig.redis.save()
            self.begin_anew(rng)

    def crash_redis(self, rng):
        """Without the last entries."""
        with self.redis_lock:
            self.rig.redis.save()
            time.sleep(rng.random() * 0.5)
            self.begin_anew(rng)

    def replace_redis(self, rng):
        with self.redis_lock:
            if not self.rig.redis.has_copy():
                self.rig.redis.keep_copy()
                time.sleep(1)
            self.begin_anew(rng, self.rig.redis.replace_by_copy)

    def empty_redis(self, rng):
        with self.redis_lock:
            self.begin_anew(rng, self.rig.redis.lose_everything)

    def begin_anew(self, rng, before=lambda: None):
        self.rig.redis.kill()
        time.sleep(rng.random() * self.rig.options.lease * 0.5)
        before()
        self.rig.redis.start()


class Rig:
    def __init__(self, options, folder, redis):
        self.options, self.folder, self.redis = options, folder, redis
        self.problems, self.proxies, self.pipes, self.processes = [], [], [], []
        self.statuses = {}
        self.has_begun = False
        self.begun = time.monotonic()
        self.nodes = []
        if options.keep:
            os.makedirs(options.keep, exist_ok=True)
        for name in NODES:
            self.nodes.append(Node(name, self))

    def note(self, text):
        if self.options.keep:
            print(f"{time.monotonic() - self.begun:7.2f} {time.strftime('%H:%M:%S', time.gmtime())} {text}", flush=True)

    def problem(self, text):
        self.problems.append(text)
        print(f"PROBLEM {text}", flush=True)

    def proxy(self, server, name, mean):
        self.proxies.append(Proxy(server, f"{self.options.seed} {name}", mean))
        return self.proxies[-1]

    def announce(self):
        """Tells the members which nodes live. They begin when all have attached."""
        if not self.has_begun:
            return
        up = [node for node in self.nodes if node.is_up]
        addresses = {"proxies": [node.proxy.port for node in self.nodes], "members": [node.server.port for node in up],
                     "operators": [node.operators for node in up]}
        for pipe in self.pipes:
            pipe.send({"addresses": addresses})

    def run(self):
        for share in range(self.options.processes):
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.Process(target=cluster_members.run, args=(theirs, share, self.options), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_until_attached(60)
        self.has_begun = True
        self.announce()
        self.expect("joined", JOIN_SECONDS)
        print(f"all members joined after {time.monotonic() - self.begun:.1f} s", flush=True)
        faults = Faults(self)
        faults.start()
        self.listen(self.options.seconds)
        faults.end()
        for proxy in self.proxies:
            proxy.calm()
        self.note("calm")
        for pipe in self.pipes:
            pipe.send({"finish": True})
        self.expect("settled", SETTLE_SECONDS)
        self.compare_nodes()
        for pipe in self.pipes:
            pipe.send({"check": True})
        figures = self.expect("checked", SETTLE_SECONDS)
        for pipe in self.pipes:
            pipe.send({"stop": True})
        # The processes of members end: nobody is left who must know which nodes live.
        self.pipes = []
        for node in self.nodes:
            code = node.end(signal.SIGTERM)
            if code != 0:
                self.problem(f"node {node.name} ends with {code} after SIGTERM")
        if self.options.journals == "on":
            self.replay()
        self.report(faults, figures)

    def listen(self, seconds):
        """Prints how the members are while they talk."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for pipe in multiprocessing.connection.wait(self.pipes, left):
                self.keep_status(pipe, pipe.recv())

    def keep_status(self, pipe, answer):
        self.statuses[self.pipes.index(pipe)] = answer
        self.note(f"process {self.pipes.index(pipe)}: {answer}")

    def expect(self, name, seconds):
        """Returns the answers of all processes of members, in order."""
        answers, end = {}, time.monotonic() + seconds
        while len(answers) < len(self.pipes):
            ready = multiprocessing.connection.wait([pipe for pipe in self.pipes if pipe not in answers], max(0, end - time.monotonic()))
            if not ready:
                raise AssertionError(f"not all members have {name} within {seconds} s: {self.statuses}")
            for pipe in ready:
                answer = pipe.recv()
                if name in answer:
                    answers[pipe] = answer[name]
                else:
                    self.keep_status(pipe, answer)
        return [answers[pipe] for pipe in self.pipes]

    # ---- at the end ----

    def compare_nodes(self):
        """All nodes answer the same, but for what only the node of a connection knows."""
        lobbies = self.ask("/lobbies?limit=100", sort=True)
        users = []
        for lobby in lobbies:
            members = self.ask(f"/lobbies/{lobby['lobby']}")
            if len(members) != lobby["members"]:
                self.problem(f"the lobby {lobby} has {len(members)} members: {members[:3]}")
            users += [member.get("user") for member in members]
        for user in sorted(users)[::max(1, len(users) // USERS_ASKED)]:
            self.ask(f"/users/{user}")
        print(f"the nodes' answers to operators: {len(lobbies)} lobbies, {len(users)} members", flush=True)

    def ask(self, path, sort=False):
        """Asks all nodes, which must answer the same. They are asked again if a member may have come back in between."""
        for _ in range(ATTEMPTS):
            answers = [self.pages(node, path) for node in self.nodes]
            if sort:
                answers = [sorted(rows, key=json.dumps) for rows in answers]
            if all(answer == answers[0] for answer in answers):
                break
            time.sleep(0.5)
        for node, answer in zip(self.nodes[1:], answers[1:]):
            if answer != answers[0]:
                ours, theirs = ([json.dumps(row) for row in rows] for rows in (answers[0], answer))
                self.problem(f"{path}: the nodes {self.nodes[0].name} and {node.name} differ: {sorted(set(ours) ^ set(theirs))[:4]}")
        return answers[0]

    def pages(self, node, path):
        """Returns the rows of all pages of a list."""
        rows, after = [], ""
        while True:
            try:
                head, body = get(node.operators, path + after)
            except OSError as error:
                head, body = [str(error)], ""
            if not head[0].startswith("HTTP/1.1 200 "):
                self.problem(f"node {node.name}: {path + after} answers {head[0]} {body.strip()}")
                return rows
            page = json.loads(body)
            rows += [shared(row) for value in page.values() if isinstance(value, list) for row in value]
            if page.get("next") is None:
                return rows
            after = ("&" if "?" in path else "?") + f"after={page['next']}"

    def replay(self):
        for node in self.nodes:
            done = subprocess.run([self.options.lobbyd, "replay", node.journal()], capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                self.problem(f"the journal of node {node.name} does not replay: {done.returncode} {done.stderr.strip()}")
            else:
                confirmed = [line for line in done.stdout.splitlines() if line.startswith("turns confirmed")]
                print(f"journal of node {node.name}: {' '.join(confirmed)}")

    def report(self, faults, figures):
        sums = {name: sum((figure[name] for figure in figures), collections.Counter()) for name in ("counts", "changes", "ends", "reasons")}
        counts = sums["counts"]
        lost, doubled = (sum(figure[name] for figure in figures) for name in ("lost", "doubled"))
        problems = self.problems + [problem for figure in figures for problem in figure["problems"]]
        logs = "".join(log for node in self.nodes for log in node.logs)
        if "panicked" in logs:
            problems.append("a node has panicked")
        events = {name: logs.count(words) for name, words in (
            ("attached", "attached to the cluster as"), ("were detached", "no longer attached"), ("warnings", " WARN "))}
        print("faults: " + listed(faults.counts))
        for kind, proxies in ("links", [node.link for node in self.nodes]), ("members", [node.proxy for node in self.nodes]):
            for proxy in proxies:
                self.end_proxy(proxy)
            print(f"faults of the proxies of {kind}: " + listed(sum((collections.Counter(proxy.faults) for proxy in proxies), collections.Counter())))
        print("changes of members: " + listed(sums["changes"]))
        print("nodes' logs: " + listed(events))
        shown = ["resumes", "messages", "direct messages", "replayed"]
        print("counts: " + listed({name: count for name, count in counts.items() if name not in shown}))
        print(f"sessions ended by the server: {listed(sums['ends']) or 'none'}")
        if not all(counts[name] for name in ("resumes", "replayed", "repeated")):
            problems.append(f"the faults did not have each effect: {listed(counts)}")
        print(f"seed {self.options.seed}: " + ", ".join(f"{name} {counts[name]}" for name in shown)
              + f", lost {lost}, doubled {doubled}, recovered false {sum(sums['reasons'].values())} "
              + f"({listed(sums['reasons']) or 'never'}), problems {len(problems)}")
        self.problems = problems

    def end_proxy(self, proxy):
        self.proxies.remove(proxy)
        proxy.__exit__()

    def close(self):
        for process in self.processes:
            if process.is_alive():
                process.terminate()
        for node in self.nodes:
            if node.server and node.is_up:
                node.server.signal(signal.SIGCONT)
                node.server.signal(signal.SIGKILL)
                node.keep_log()
        for proxy in list(self.proxies):
            self.end_proxy(proxy)


def shared(value):
    """Returns what all nodes know of an answer."""
    if isinstance(value, list):
        return [shared(row) for row in value]
    if isinstance(value, dict):
        return {name: shared(value[name]) for name in sorted(SHARED & set(value))}
    return value


def main(options):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print(f"{options.members} members for {options.seconds:g} s, a message of each every {options.every:g} s, "
          f"in {options.processes} processes, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="lobbyd-cluster-") as folder, Redis(folder) as redis:
        rig = Rig(options, folder, redis)
        try:
            rig.run()
        finally:
            rig.close()
    return 1 if rig.problems else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--members", type=int, default=3000)
    parser.add_argument("--processes", type=int, default=2, help="processes of members")
    parser.add_argument("--every", type=float, help="mean seconds between two messages of a member; default: 100 messages a second in all, at least 1 s")
    parser.add_argument("--grace", type=float, help="seconds of the grace period of seats; default: 8 in a run of less than a minute, else 30")
    parser.add_argument("--pause", type=float, help="mean seconds between two faults; default: 1 in a run of less than a minute, else 8")
    parser.add_argument("--lease", type=float, help="the nodes' --cluster-lease in seconds, up to about twice as long as faults last; default: 2 in a run of less than a minute, else 6")
    parser.add_argument("--seed", default=str(random.randrange(10 ** 6)))
    parser.add_argument("--faults", help="only these, by the names of their functions")
    parser.add_argument("--journals", choices=["on", "off"], default="on", help="record and replay each node's sessions")
    parser.add_argument("--links", choices=["faulty", "direct"], default="faulty", help="the nodes' connections to Redis")
    parser.add_argument("--log", default="info", help="the nodes' --log")
    parser.add_argument("--keep", help="folder for the nodes' logs and journals; also prints each fault")
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    given = parser.parse_args()
    is_short = given.seconds < 60
    given.grace = given.grace or (8.0 if is_short else 30.0)
    given.lease = given.lease or (2.0 if is_short else 6.0)
    given.pause = given.pause or (1.0 if is_short else 8.0)
    given.every = given.every or max(1.0, given.members / 100)
    multiprocessing.set_start_method("spawn")
    sys.exit(main(given))
