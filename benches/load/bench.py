#!/usr/bin/env python3
"""Runs WebSocket servers side by side under one load generator and tabulates medians.
Server on core 0, load generator on core 1. See README.md."""
import argparse, json, os, shlex, signal, socket, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
P = os.path.join(HERE, "peers")
LOADGEN = os.path.join(HERE, "loadgen/target/release/loadgen")
WS = "ws://127.0.0.1:{port}/ws/{lobby}?token={user}"
ECHO = "ws://127.0.0.1:{port}/echo"

PEERS = {
    "rawbound-now": f"{P}/rawbound/rawbound {{port}} now",
    "rawbound-batch": f"{P}/rawbound/rawbound {{port}} batch",
    "rawbound-batch-et": f"{P}/rawbound/rawbound {{port}} batch-et",
    "rawbound-hold-5": f"{P}/rawbound/rawbound {{port}} hold-5",
    "uws": f"{P}/uws/uws {{port}}",
    "tokio-tungstenite": f"{P}/tokio-tungstenite/target/release/peer-tokio-tungstenite {{port}}",
    "fastwebsockets": f"{P}/fastwebsockets/target/release/peer-fastwebsockets {{port}}",
    "node-ws": f"node {P}/node-ws/server.js {{port}}",
    "fastapi": f"{P}/fastapi/.venv/bin/uvicorn --app-dir {P}/fastapi server:app --host 127.0.0.1 --port {{port}} "
               "--loop uvloop --ws websockets --http httptools --log-level error --backlog 4096",
}
# name: (loadgen arguments, columns)
SAT = ["deliveries_s", "cpu_us_per_delivery", "cpu_pct", "deliveries_per_recv", "p50_us", "p99_us", "p999_us", "loadgen_busy_pct"]
RT = ["trips_s", "cpu_us_per_msg_in", "cpu_pct", "p50_us", "p99_us", "p999_us", "loadgen_busy_pct"]
TICK = ["deliveries_s", "target_pct", "cpu_pct", "cpu_us_per_delivery", "deliveries_per_recv", "p50_us", "p99_us", "p999_us", "loadgen_busy_pct"]
SCENARIOS = {
    "echo": ("echo --conns 64 --window 1 --payload 64", RT),
    "echo1": ("echo --conns 1 --window 1 --payload 64", RT),
    "relay": ("relay --lobbies 64 --window 1 --payload 64", RT),
    "fanout-w1": ("fanout --lobbies 100 --size 10 --senders 1 --window 1 --payload 64", SAT),
    "fanout-w4": ("fanout --lobbies 100 --size 10 --senders 1 --window 4 --payload 64", SAT),
    "fanout-all": ("fanout --lobbies 100 --size 8 --senders 8 --window 1 --payload 64", SAT),
    "fanout-1k": ("fanout --lobbies 100 --size 10 --senders 1 --window 4 --payload 1024", SAT),
    "big1000": ("big --size 1000 --window 4 --payload 64", SAT),
    "big5000": ("big --size 5000 --window 4 --payload 64", SAT),
    "tick-100": ("tickrooms --lobbies 100 --payload 80", TICK),
    "tick-200": ("tickrooms --lobbies 200 --payload 80", TICK),
    "tick-250": ("tickrooms --lobbies 250 --payload 80", TICK),
    "tick-300": ("tickrooms --lobbies 300 --payload 80", TICK),
    "tick-400": ("tickrooms --lobbies 400 --payload 80", TICK),
    "tick-500": ("tickrooms --lobbies 500 --payload 80", TICK),
    "idle": ("idle --conns 10000 --size 8 --touch 1 --duration 1", ["bytes_per_conn", "bytes_per_conn_touched", "rss2_kib", "rss0_kib", "handshake_cpu_us", "idle_cpu_pct"]),
    "storm": ("storm --conns 10000 --concurrency 64", ["handshakes_s", "cpu_us_per_handshake", "cpu_pct", "p50_us", "p99_us", "loadgen_busy_pct"]),
}
# the figure ratios are made of, and whether more is better
KEY = {"idle": ("bytes_per_conn_touched", False), "storm": ("cpu_us_per_handshake", False),
       "echo": ("cpu_us_per_msg_in", False), "echo1": ("p50_us", False), "relay": ("cpu_us_per_msg_in", False)}
port_n = [20000 + (os.getpid() * 7) % 8000]


def start(cmd, core):
    port_n[0] = 20000 + (port_n[0] - 20000 + 1) % 10000
    port = port_n[0]
    argv = shlex.split(cmd.replace("{port}", str(port)))
    p = subprocess.Popen(["taskset", "-c", core] + argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=sys.stderr if VERBOSE else subprocess.DEVNULL)
    end = time.time() + 20
    while time.time() < end:
        if p.poll() is not None:
            raise RuntimeError(f"server ended with {p.returncode}: {cmd}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.3).close()
            time.sleep(0.3)
            return p, port
        except OSError:
            time.sleep(0.05)
    stop(p)
    raise RuntimeError(f"server does not listen on {port}: {cmd}")


def stop(p):
    if p.poll() is None:
        p.send_signal(signal.SIGTERM)
        try:
            p.wait(3)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()


def one(name, cmd, url, scen, extra, cores):
    args, _ = SCENARIOS[scen]
    p, port = start(cmd, cores[0])
    try:
        argv = ["taskset", "-c", cores[1], LOADGEN] + args.split() + ["--url", url.replace("{port}", str(port)), "--server-pid", str(p.pid), "--name", name, "--json"] + extra
        r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=sys.stderr if VERBOSE else subprocess.DEVNULL, text=True, timeout=400)
        line = [l for l in r.stdout.splitlines() if l.startswith("{")]
        d = json.loads(line[-1]) if line else {"ok": False, "error": f"loadgen rc {r.returncode}"}
    finally:
        stop(p)
    d.update(name=name, scen=scen)
    if d.get("target_msgs_s"):
        d["target_pct"] = 100 * d["msgs_in_s"] / d["target_msgs_s"]
    return d


def fmt(v):
    if v is None:
        return "-"
    a = abs(v)
    return f"{v:,.0f}" if a >= 1000 else f"{v:.0f}" if a >= 100 else f"{v:.1f}" if a >= 10 else f"{v:.2f}"


def ratio(a, b):
    r = [x / y for x, y in zip(a, b) if y]
    return f"{statistics.median(r):.2f}" if r and any(a) else "-"


def table(rows, servers, scen, base, out):
    cols = SCENARIOS[scen][1]
    key, up = KEY.get(scen, ("cpu_us_per_delivery", False))
    med = {}
    for s in servers:
        rs = [r for r in rows if r["scen"] == scen and r["name"] == s and key in r]
        if rs:
            med[s] = {c: statistics.median([r[c] for r in rs if c in r]) for c in cols if any(c in r for r in rs)}
            k = [r[key] for r in rs]
            med[s].update(n=len(rs), bad=sum(1 for r in rs if not r.get("ok")), spread=(max(k) - min(k)) / statistics.median(k) * 100 if statistics.median(k) else 0)
            med[s]["_k"] = k
            med[s]["_r"] = [r.get("deliveries_s") or r.get("trips_s") or r.get("handshakes_s") or 0 for r in rs]
    if not med:
        return
    b = med.get(base)
    print(f"\n### {scen}: `{SCENARIOS[scen][0]}`\n", file=out)
    print("| server | " + " | ".join(cols) + f" | {key} ÷ {base} | rate ÷ {base} | spread | runs |", file=out)
    print("|---|" + "---:|" * (len(cols) + 4), file=out)
    for s in servers:
        if s not in med:
            bad = [r for r in rows if r["scen"] == scen and r["name"] == s]
            if bad:
                print(f"| {s} | failed: {bad[0].get('error', '?')} |", file=out)
            continue
        m = med[s]
        # Ratios are taken within a repetition (runs minutes apart differ), then the median.
        rel = ratio(m["_k"], b["_k"]) if b else "-"
        rate = ratio(m["_r"], b["_r"]) if b else "-"
        runs = f"{m['n']}" + (f" ({m['bad']} NOT exact)" if m["bad"] else "")
        print(f"| {s} | " + " | ".join(fmt(m.get(c)) for c in cols) + f" | {rel} | {rate} | {m['spread']:.0f}% | {runs} |", file=out)


def summary(rows, servers, scens, base, out):
    """Key figure of each scenario over the base's (lower is better), and the rate (higher is better)."""
    for what in ("key", "rate"):
        scs = [s for s in scens if any(r["scen"] == s and r["name"] == base for r in rows) and (what == "key" or s not in ("idle", "echo1") and not s.startswith("tick"))]
        if not scs:
            return
        print("\n### " + ("CPU a delivery (idle: bytes a connection, storm: CPU a handshake, echo1: p50)" if what == "key" else "rate") + f" ÷ {base}\n", file=out)
        print("| server | " + " | ".join(scs) + " |\n|---|" + "---:|" * len(scs), file=out)
        for n in servers:
            cells = []
            for sc in scs:
                key = KEY.get(sc, ("cpu_us_per_delivery",))[0]
                f = (lambda r: r.get(key, 0)) if what == "key" else (lambda r: r.get("deliveries_s") or r.get("handshakes_s") or 0)
                a, b = ([f(r) for r in rows if r["scen"] == sc and r["name"] == x] for x in (n, base))
                bad = any(not r.get("ok") for r in rows if r["scen"] == sc and r["name"] == n)
                cells.append(ratio(a, b) + ("!" if bad else ""))
            print(f"| {n} | " + " | ".join(cells) + " |", file=out)
    print("\n'!': a run of it was not exact (messages lost, doubled or out of order, or connections lost) or failed.", file=out)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--peers", default="uws,tokio-tungstenite,node-ws,fastapi,rawbound-now,rawbound-batch", help="comma list, 'all' or 'none': " + " ".join(PEERS))
    ap.add_argument("--server", action="append", default=[], metavar="NAME=CMD", help="a further server; {port} in CMD is replaced")
    ap.add_argument("--enveloped", action="append", default=[], metavar="NAME=CMD", help="the same for one that speaks lobbyd's protocol: broadcast requests, message objects")
    ap.add_argument("--url", default=WS, help="URL template of the --server and --enveloped ones")
    ap.add_argument("--echo-server", action="append", default=[], metavar="NAME=CMD", help="how a --server is started for echo; without it that server sits out echo")
    ap.add_argument("--echo-url", default=ECHO, help="URL of the --echo-server ones")
    ap.add_argument("--scenarios", default="all", help="comma list of: " + " ".join(SCENARIOS))
    ap.add_argument("--reps", type=int, default=3)
    ap.add_argument("--base", default="uws", help="what ratios are against")
    ap.add_argument("--jsonl", default="", help="append every run here")
    ap.add_argument("--from-jsonl", action="append", default=[], help="only tabulate these")
    ap.add_argument("--cores", default="0,1", help="server core,loadgen core")
    ap.add_argument("--loadgen-args", default="--warmup 0.7 --duration 2.5 --settle 0.4")
    ap.add_argument("--no-priority", action="store_true")
    ap.add_argument("-v", "--verbose", action="store_true")
    a = ap.parse_args()
    global VERBOSE
    VERBOSE = a.verbose
    peers = list(PEERS) if a.peers == "all" else [] if a.peers == "none" else a.peers.split(",")
    servers, echo_servers = {}, {}          # name: (command, URL, loadgen arguments)
    for s in a.server:
        n, c = s.split("=", 1)
        servers[n] = (c, a.url, [])
    for s in a.enveloped:
        n, c = s.split("=", 1)
        servers[n] = (c, a.url, ["--envelope"])
    for s in a.echo_server:
        n, c = s.split("=", 1)
        echo_servers[n] = (c, a.echo_url, [])
    for n in peers:
        servers[n], echo_servers[n] = (PEERS[n], WS, []), (PEERS[n], ECHO, [])
    scens = list(SCENARIOS) if a.scenarios == "all" else a.scenarios.split(",")
    rows = []
    if a.from_jsonl:
        for f in a.from_jsonl:
            rows += [json.loads(l) for l in open(f) if l.strip()]
        have = [r["name"] for r in rows]
        names = [n for n in dict.fromkeys(list(PEERS) + have) if n in have]
        for sc in scens:
            table(rows, names, sc, a.base, sys.stdout)
        summary(rows, names, scens, a.base, sys.stdout)
        return
    if not a.no_priority:
        # A scheduler group of its own (that takes a terminal session of its own), before all others.
        try:
            if os.getsid(0) != os.getpid():
                if os.getpgrp() == os.getpid():
                    r = os.fork()
                    if r:
                        os._exit(os.waitstatus_to_exitcode(os.waitpid(r, 0)[1]))
                os.setsid()
            open("/proc/self/autogroup", "w").write("-20")
        except OSError as e:
            print(f"no priority: {e}", file=sys.stderr)
    t0 = time.time()
    for sc in scens:
        started = echo_servers if sc.startswith("echo") else servers
        for rep in range(a.reps):
            order = list(started)
            order = order[rep % len(order):] + order[:rep % len(order)]
            for n in order:
                cmd, url, loadgen_args = started[n]
                try:
                    r = one(n, cmd, url, sc, loadgen_args + (shlex.split(a.loadgen_args) if sc not in ("idle", "storm") else []), a.cores.split(","))
                except Exception as e:
                    r = {"name": n, "scen": sc, "ok": False, "error": str(e)}
                r["rep"] = rep
                rows.append(r)
                key = KEY.get(sc, ("cpu_us_per_delivery", 0))[0]
                rate = r.get("deliveries_s") or r.get("handshakes_s") or 0
                print(f"[{time.time()-t0:5.0f}s] {sc:11} {n:18} {key} {fmt(r.get(key))}  rate {fmt(rate)}  cpu {fmt(r.get('cpu_pct'))}%  loadgen {fmt(r.get('loadgen_busy_pct'))}% {'ok' if r.get('ok') else 'NOT OK ' + str(r.get('error', [r.get(k) for k in ('lost', 'dup', 'missing', 'disconnects', 'failed')]))}", file=sys.stderr, flush=True)
                if a.jsonl:
                    with open(a.jsonl, "a") as f:
                        f.write(json.dumps(r) + "\n")
        table(rows, list(servers), sc, a.base, sys.stdout)
        sys.stdout.flush()
    summary(rows, list(servers), scens, a.base, sys.stdout)


if __name__ == "__main__":
    main()
