"""What the comparisons share: servers on a core of their own, priority, and medians of paired ratios. Standard library only."""

import math
import os
import platform
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests/clients"))
from lobbyd import free_port  # noqa: E402


def start(command, core, **options):
    """Starts a server. Returns the process, once it accepts connections, and its port, which replaces {port} in the command."""
    port = free_port()
    argv = ["taskset", "-c", str(core), *shlex.split(command.replace("{port}", str(port)))]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.3).close()
            # The server has closed this connection before anything is counted.
            time.sleep(0.2)
            return process, port
        except OSError:
            time.sleep(0.02)
    stop(process)
    raise RuntimeError(f"the server does not listen: {command}")


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def figure(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def median_interval(values):
    """95 % confidence interval of the median: the order statistics that contain it with that probability (binomial, p = 1/2)."""
    values, n = sorted(values), len(values)
    below, k = 0.5**n, 0
    # `below` is the probability that at most k values are below the median.
    while k + 1 <= (n - 1) // 2 and below + math.comb(n, k + 1) * 0.5**n <= 0.025:
        k += 1
        below += math.comb(n, k) * 0.5**n
    return (values[k], values[-1 - k]) if below <= 0.025 else None


def paired_ratio(own, base):
    """The ratio of two lists of figures, paired within each round: its median, and its interval if there are rounds enough."""
    ratios = [a / b for a, b in zip(own, base) if a and b]
    if not ratios:
        return "-"
    interval = median_interval(ratios)
    shown = f" [{figure(interval[0])} {figure(interval[1])}]" if interval else ""
    return f"{figure(statistics.median(ratios))}{shown}"


def print_table(rows):
    """Prints a table in Markdown. The first row is its head; all columns but the first are numbers."""
    first, *others = rows
    rows = [first, [":--", *("--:" for _ in first[1:])], *others]
    widths = [max(len(row[column]) for row in rows) for column in range(len(first))]
    for name, *cells in rows:
        print("| " + " | ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:]))]) + " |", flush=True)


def machine():
    """The processor, its number of cores, and the kernel: figures of different machines cannot be compared."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def raise_priority():
    """Moves this process into a session and scheduler group of its own, with the highest weight.

    `nice` alone does not order processes of different groups: a compiler running at the same time would take half of both cores.
    """
    try:
        if os.getsid(0) != os.getpid():
            child = os.fork()
            if child:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda number, _: os.kill(child, number))
                os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            os.setsid()
        Path("/proc/self/autogroup").write_text("-20")
    except OSError as error:
        print(f"cannot raise the priority: {error}", file=sys.stderr)
