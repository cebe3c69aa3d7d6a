#!/usr/bin/env python3
"""`GET /metrics` of the lobbyd binary: the format, the values, the rules and the dashboard in examples/deploy. Started by `run`.

    tests/clients/run --metrics [path/to/lobbyd]

1. Clients of Python's `websockets` do a known number of things. The counters equal what they did.
2. `promtool check metrics` accepts each answer. What it does not look at is checked here: buckets that fall, a missing sum, an
   empty answer. The checker is given damaged answers first.
3. `promtool check rules --lint-fatal` and `promtool test rules` accept the rules. Every metric that the rules and the dashboard
   name is in an answer.
4. A Prometheus scrapes the server, and a node of a cluster, as the guide configures it, with a token from a file, and evaluates every expression of the
   rules and the dashboard.

Needs Debian's packages `prometheus` and `redis-server`, which `run` installs. Ends with "N passed, N failed"; exit 0 only if none failed.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

from lobbyd import Lobbyd, default_binary, free_port
from peers import Python
from redis_process import Redis
from suite import Tally, close_all, enter

DEPLOY = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/deploy"))
DASHBOARD = os.path.join(DEPLOY, "grafana-dashboard.json")
RULES = os.path.join(DEPLOY, "prometheus-rules.yml")
RULES_TEST = os.path.join(DEPLOY, "prometheus-rules-test.yml")
GUIDE = os.path.normpath(os.path.join(DEPLOY, "../../src/guide/metrics.md"))
TOKEN = "correct-horse-battery-staple"
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SAMPLE = re.compile(r'([a-z_][a-z0-9_]*)(\{[a-z_]+="[^"\\]*"(?:,[a-z_]+="[^"\\]*")*\})? (\S+)')
METRIC = re.compile(r"\b(?:lobbyd|process)_[a-z0-9_]+")
ADMIN = r"admin API on http://127\.0\.0\.1:(\d+)"
SECONDS = 60        # limit for what happens in the background
CLAIM_SECONDS = 300


# ---- answers ----

def ask(port, path, token=TOKEN, host=None):
    """Returns the status, the media type and the body of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def parse(text):
    """Returns the samples by name and labels, and the types of the metrics. Raises AssertionError for an answer that Prometheus
    would accept or refuse in part."""
    assert text, "the answer is empty"
    assert text.endswith("\n"), "the last line has no line feed"
    kinds, samples, helped = {}, {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ")[2]
            assert helped not in kinds, f"{helped} occurs twice"
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == helped, f"the type of {name} does not follow its help text"
            kinds[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"no sample: {line!r}"
            name, labels, value = match[1], match[2] or "", float(match[3])
            suffixes = ("_bucket", "_sum", "_count") if kinds.get(helped) == "histogram" else ("",)
            assert name in [helped + suffix for suffix in suffixes], f"{name} stands below {helped}"
            assert name + labels not in samples, f"{name}{labels} occurs twice"
            samples[name + labels] = value
    for name, kind in kinds.items():
        if kind == "histogram":
            check_histogram(name, samples)
        else:
            assert any(key.split("{")[0] == name for key in samples), f"{name} has no sample"
    return samples, kinds


def check_histogram(name, samples):
    prefix = f'{name}_bucket{{le="'
    buckets = [(float(key[len(prefix):-2]), count) for key, count in samples.items() if key.startswith(prefix)]
    assert buckets == sorted(buckets) and len({bound for bound, _ in buckets}) == len(buckets), f"{name}: bounds fall"
    counts = [count for _, count in buckets]
    assert counts == sorted(counts), f"{name}: buckets fall"
    assert buckets and buckets[-1][0] == float("inf"), f"{name} has no bucket +Inf"
    assert f"{name}_sum" in samples, f"{name} has no sum"
    assert samples.get(f"{name}_count") == counts[-1], f"{name}: the count is not that of +Inf"


def scrape(port):
    status, media_type, text = ask(port, "/metrics")
    assert (status, media_type) == (200, MEDIA_TYPE), (status, media_type, text[:200])
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert checked.returncode == 0 and not checked.stderr, f"promtool: {checked.returncode} {checked.stderr}"
    return parse(text)[0]


def check_grows(before, after):
    for key, value in before.items():
        assert key in after, f"{key} is gone"
        if re.search(r"_(total|bucket|count|sum)(\{|$)", key):
            assert after[key] >= value, f"{key} has fallen from {value} to {after[key]}"


async def the_checker_finds_damage(server):
    text = ask(server.admin, "/metrics")[2]
    parse(text)
    bucket = 'lobbyd_turn_seconds_bucket{le="+Inf"}'
    for damaged, why in [
        ("", "empty"),
        (text[:-1], "line feed"),
        (re.sub(re.escape(bucket) + r" \d+", bucket + " 0", text), "buckets fall|count"),
        (re.sub(r"lobbyd_turn_seconds_sum .*\n", "", text), "no sum"),
        (re.sub(r'lobbyd_turn_seconds_bucket\{le="\+Inf"\} .*\n', "", text), "Inf"),
        (text + text.splitlines()[-1] + "\n", "twice"),
    ]:
        assert damaged != text
        try:
            parse(damaged)
        except AssertionError as error:
            assert re.search(why, str(error)), f"{why}: {error}"
        else:
            raise AssertionError(f"{why} was not found")


# ---- claims about the values ----

def closes(code, reason):
    return f'lobbyd_closes_total{{code="{code}",reason="{reason}"}}'


def refusals(code):
    return f'lobbyd_refusals_total{{code="{code}"}}'


async def all_reasons_are_present_at_zero(server):
    samples = scrape(server.admin)
    found = [value for key, value in samples.items() if key.startswith("lobbyd_closes_total{")]
    assert len(found) > 30 and not any(found), found
    assert [samples[refusals(code)] for code in ("bad_message", "rate_limited", "not_allowed")] == [0, 0, 0]


async def counters_equal_what_clients_did(server):
    before = scrape(server.admin)
    python = Python()
    names = [f"user{n}" for n in range(6)]
    clients = []
    for name in names:
        clients.append(await enter(python, server, "metrics", name))
        for other in clients[:-1]:
            await other.expect("presence_diff")
    ann, bob, *rest = clients
    for n in range(10):
        await ann.say("broadcast", data=n, ref=n)
        await ann.expect("ack", ref=n)
        for other in [bob, *rest]:
            await other.expect("message", data=n)
    await bob.say("direct", to="nobody", data=1, ref=1)
    await bob.expect("error", code="user_not_found")
    for _ in range(3):
        await bob.send("rubbish")
        await bob.expect("error", code="bad_message")
    during = scrape(server.admin)
    check_grows(before, during)
    assert during["lobbyd_connections"] - before["lobbyd_connections"] == 6
    assert during["lobbyd_lobbies"] - before["lobbyd_lobbies"] == 1
    await bob.say("leave")
    await bob.expect_goodbye(1000, "left")
    await rest[1].expect("presence_diff")
    await rest[0].drop()
    # The server has noticed it before the newer connection arrives.
    await rest[1].expect("presence_diff")
    newer = await enter(python, server, "metrics", names[3])
    await rest[1].expect_goodbye(4004, "replaced")
    await close_all(ann, newer, *rest[2:])
    expected = {
        "lobbyd_connections_accepted_total": 7,
        "lobbyd_joins_total": 6,
        "lobbyd_takeovers_total": 1,
        "lobbyd_leaves_total": 6,
        "lobbyd_received_messages_total": 10 + 1 + 3 + 1,
        closes(1000, "left"): 1,
        closes(1000, "peer_closed"): 4,
        closes(1006, "hangup"): 1,
        closes(4004, "replaced"): 1,
        closes(4102, "slow_consumer"): 0,
        refusals("bad_message"): 3,
        refusals("user_not_found"): 1,
        refusals("rate_limited"): 0,
        # A connection that is closing is still there.
        "lobbyd_connections": 0,
        "lobbyd_lobbies": 0,
    }
    end = time.monotonic() + SECONDS
    while True:
        after = scrape(server.admin)
        check_grows(during, after)
        # The server notices a dropped connection when it reads, or when it writes.
        after[closes(1006, "hangup")] += after[closes(1006, "write_failed")]
        got = {key: after[key] - before[key] for key in expected}
        if got == expected or time.monotonic() > end:
            break
        await asyncio.sleep(0.1)
    assert got == expected, {key: (got[key], expected[key]) for key in expected if got[key] != expected[key]}
    # Six receivers less the sender, and what else was sent to each.
    assert after["lobbyd_queued_frames_total"] - before["lobbyd_queued_frames_total"] >= 10 * 6
    assert after["lobbyd_sent_bytes_total"] > during["lobbyd_sent_bytes_total"]


async def metrics_equal_statistics(server):
    """Figures that do not change while nobody is connected."""
    stats = json.loads(ask(server.admin, "/stats")[2])
    samples = scrape(server.admin)
    for reason, count in stats["closed"].items():
        assert any(f'reason="{reason}"}}' in key and value == count for key, value in samples.items()), reason
    for code, count in stats["errors"].items():
        assert samples[refusals(code)] == count, code
    for key, name in [("joined", "joins"), ("left", "leaves"), ("bytes_in", "received_bytes"), ("bytes_out", "sent_bytes")]:
        assert samples[f"lobbyd_{name}_total"] == stats["counters"][key], key
    assert samples["lobbyd_tick_rate_hertz"] == stats["ticks"]["hz"]
    assert samples["lobbyd_max_connections"] == stats["max_connections"]


async def health_checks_are_measured(shared):
    # A server of its own: the other claims expect no `health_ping` between two frames.
    with Lobbyd(shared.binary, "--admin", "127.0.0.1:0", "--admin-token-file", shared.token_file, "--health-interval", "2s") as server:
        server.admin = int(server.wait_for_log(ADMIN, SECONDS).group(1))
        await a_health_pong_is_measured(server)


async def a_health_pong_is_measured(server):
    client = await enter(Python(), server, "health", "ann")
    before = scrape(server.admin)
    for answered in range(1, 20):
        while (message := json.loads(await client.next(SECONDS)))["type"] != "health_ping":
            pass
        await client.say("health_pong", timestamp=message["timestamp"])
        await client.say("ping", ref=answered)
        while (message := json.loads(await client.next(SECONDS)))["type"] == "health_ping":
            pass
        assert message["type"] == "pong" and message["ref"] == answered, message
        after = scrape(server.admin)
        grown = {part: after[f"lobbyd_health_latency_seconds_{part}"] - before[f"lobbyd_health_latency_seconds_{part}"]
                 for part in ("count", "sum")}
        # An answer after `health_timeout` has no latency: then the next one is looked at.
        if grown["count"]:
            break
    assert grown["count"] == 1 and 0 < grown["sum"] < SECONDS, grown
    await close_all(client)


async def loop_journal_and_process_are_measured(server):
    began = time.monotonic()
    before = scrape(server.admin)
    client = await enter(Python(), server, "process", "ann")
    while True:
        scraping = time.time()
        after = scrape(server.admin)
        check_grows(before, after)
        grown = lambda key: after[key] - before[key]
        passed = time.monotonic() - began
        counts = [grown(f"lobbyd_{name}_seconds_count") for name in ("tick_lateness", "turn", "journal_write")]
        # 20 ticks a second. A busy machine needs longer for them.
        if min(counts[:2]) >= 10 and counts[2] > 0:
            break
        assert passed < SECONDS, counts
        await asyncio.sleep(0.5)
    assert counts[0] <= 25 * passed, counts
    assert 0 < grown("lobbyd_turn_seconds_sum") < passed
    assert grown("lobbyd_journal_write_bytes_sum") > 0
    assert after["lobbyd_journal_failed"] == 0
    fds = len(os.listdir(f"/proc/{server.pid}/fd"))
    assert abs(after.get("process_open_fds", fds) - fds) <= 2, (after["process_open_fds"], fds)
    with open(f"/proc/{server.pid}/statm", encoding="ascii") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert 0.5 < after["process_resident_memory_bytes"] / resident < 2, (after["process_resident_memory_bytes"], resident)
    oldest, youngest = (now - after["process_start_time_seconds"] for now in (time.time(), scraping))
    assert after["lobbyd_uptime_seconds"] - 2 < oldest and youngest < after["lobbyd_uptime_seconds"] + 10, (oldest, youngest)
    assert 0 < after["process_cpu_seconds_total"] <= oldest + 1
    await close_all(client)


async def metrics_need_the_token(server):
    for token in None, "wrong-horse-battery-staple":
        assert ask(server.admin, "/metrics", token)[0] == 401, token
    assert ask(server.admin, "/metrics", host="elsewhere.example:9002")[0] == 403
    assert ask(server.admin, "/metrics", host="lobby.internal:9002")[0] == 200
    text = ask(server.admin, "/metrics")[2]
    assert TOKEN not in text and "user1" not in text, "names and tokens are not shown"


# ---- the files in examples/deploy ----

def expressions():
    """The expressions of the dashboard, as Grafana sends them, and of the rules."""
    with open(DASHBOARD, encoding="utf-8") as file:
        dashboard = json.load(file)
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    variables = {"$job": "lobbyd", "$instance": ".*", "$__rate_interval": "1m"}
    for name, value in variables.items():
        found = [expression.replace(name, value) for expression in found]
    assert len(found) > 30 and not any("$" in expression for expression in found)
    with open(RULES, encoding="utf-8") as file:
        rules = re.findall(r"^ +expr: (.+)$", file.read(), re.MULTILINE)
    assert len(rules) > 10
    return found, rules


async def rules_pass_promtool(server):
    for command in ["check", "rules", "--lint-fatal", RULES], ["test", "rules", RULES_TEST]:
        done = subprocess.run(["promtool", *command], capture_output=True, text=True)
        assert done.returncode == 0, f"promtool {' '.join(command[:2])}: {done.returncode}\n{done.stdout}{done.stderr}"


async def named_metrics_exist(server):
    known = {key.split("{")[0] for port in (server.admin, server.node.admin) for key in scrape(port)}
    # Only with the features `tls` and `hook`: those that the guide lists. The tests of the features look at them.
    with open(GUIDE, encoding="utf-8") as file:
        for name, kind in re.findall(r"^ *\| `(lobbyd_(?:tls|hook|jwks)_\w+)[^|]*\| (\w+) \|", file.read(), re.MULTILINE):
            known |= {name + suffix for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))}
    for path in DASHBOARD, RULES, RULES_TEST:
        with open(path, encoding="utf-8") as file:
            named = set(METRIC.findall(file.read()))
        assert named and named <= known, f"{os.path.basename(path)}: no answer contains {sorted(named - known)}"


class Prometheus:
    """A Prometheus that scrapes `server` as the guide configures it."""

    def __init__(self, server, folder):
        with open(os.path.join(folder, "prometheus.yml"), "w", encoding="utf-8") as file:
            json.dump({     # JSON is YAML
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [RULES],
                "scrape_configs": [{
                    "job_name": "lobbyd",
                    "static_configs": [{"targets": [f"127.0.0.1:{server.admin}", f"127.0.0.1:{server.node.admin}"]}],
                    "authorization": {"credentials_file": server.token_file},
                }],
            }, file)
        self.port = free_port()
        self._log = open(os.path.join(folder, "prometheus.log"), "w+", encoding="utf-8")
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port}"], stdout=self._log, stderr=self._log)

    def query(self, expression):
        query = urllib.parse.urlencode({"query": expression})
        status, _, body = ask(self.port, f"/api/v1/query?{query}", token=None)
        answer = json.loads(body)
        assert status == 200 and answer["status"] == "success", f"{expression}: {body}"
        return answer["data"]["result"]

    async def wait_for(self, expression):
        end = time.monotonic() + SECONDS
        while True:
            try:
                if result := self.query(expression):
                    return result
            except (OSError, AssertionError, ValueError) as error:
                result = error
            if time.monotonic() > end or self._process.poll() is not None:
                self._log.seek(0)
                raise AssertionError(f"{expression}: {result!r}\n{self._log.read()[-2000:]}")
            await asyncio.sleep(0.2)

    def close(self):
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


async def prometheus_scrapes_and_evaluates(server):
    panels, rules = expressions()
    # Without the features that they belong to.
    panels = [expression for expression in panels if not re.search("lobbyd_(tls|hook|jwks)_", expression)]
    # Rules about durations may fire on a busy machine.
    rules = [expression for expression in rules if "quantile" not in expression and "skipped" not in expression]
    client = await enter(Python(), server, "scraped", "ann")
    with tempfile.TemporaryDirectory(prefix="lobbyd-prometheus-") as folder:
        prometheus = Prometheus(server, folder)
        try:
            await prometheus.wait_for('count(up{job="lobbyd"} == 1) == 2')
            # Rates need two scrapes.
            await prometheus.wait_for("count(rate(lobbyd_turn_seconds_count[1m]) > 0) == 2")
            # Closes by reason are shown from the first one on.
            other = await enter(Python(), server, "other", "bob")
            await close_all(other)
            await prometheus.wait_for(f"increase({closes(1000, 'peer_closed')}[1m]) > 0")
            # After a scrape that has taken longer than the interval, nothing has a value until the next one.
            end = time.monotonic() + SECONDS
            while True:
                empty = [expression for expression in panels if not prometheus.query(expression)]
                firing = [expression for expression in rules if prometheus.query(expression)]
                if not empty and not firing or time.monotonic() > end:
                    break
                await asyncio.sleep(1)
            assert not empty, f"no data: {empty}"
            assert not firing, f"this server has no problem: {firing}"
        finally:
            prometheus.close()
    await close_all(client)


CLAIMS = [
    all_reasons_are_present_at_zero,
    the_checker_finds_damage,
    counters_equal_what_clients_did,
    metrics_equal_statistics,
    health_checks_are_measured,
    loop_journal_and_process_are_measured,
    metrics_need_the_token,
    rules_pass_promtool,
    named_metrics_exist,
    prometheus_scrapes_and_evaluates,
]


async def main(binary):
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="lobbyd-metrics-") as folder:
        token_file = os.path.join(folder, "token")
        with open(token_file, "w", encoding="ascii") as file:
            file.write(TOKEN + "\n")
        options = ["--admin", "127.0.0.1:0", "--admin-token-file", token_file, "--admin-host", "lobby.internal",
                   "--tick-hz", 20, "--proxy-protocol", "192.0.2.1", "--journal", os.path.join(folder, "session"), "--health-interval", "60s"]
        # The metrics of a cluster are those of a node.
        of_node = ["--admin", "127.0.0.1:0", "--admin-token-file", token_file, "--node", "a"]
        with Redis(folder) as redis, Lobbyd(binary, *options) as server, \
                Lobbyd(binary, *of_node, "--cluster", f"unix:{redis.socket}") as server.node:
            server.token_file, server.binary = token_file, binary
            for each in server, server.node:
                each.admin = int(each.wait_for_log(ADMIN, SECONDS).group(1))
            server.node.wait_for_log("attached to the cluster", SECONDS)
            for claim in CLAIMS:
                await tally.check(claim.__name__, claim(server), CLAIM_SECONDS)
    return tally.finish()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else default_binary())))
