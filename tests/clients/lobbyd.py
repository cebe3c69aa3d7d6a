"""Starts the lobbyd binary for a test, with access to its port, log and exit code. Standard library only."""

import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time

from delaying_proxy import DelayingProxy

# Checks run behind a proxy that delays each piece by up to so many milliseconds: to find those that depend on the order of two connections.
DELAY_MS = float(os.environ.get("LOBBYD_TEST_DELAY_MS", 0))

LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Lobbyd:
    """A running server. As a context manager it ends the process at the end of the block, also after an error."""

    def __init__(self, binary, *args, listen="127.0.0.1:0", cwd=None):
        # A file instead of a pipe: a pipe that is not read fills up and stops the server.
        self._log = tempfile.NamedTemporaryFile(prefix="lobbyd-", suffix=".log")
        self._process = subprocess.Popen(
            [os.path.abspath(binary) if cwd else binary, "--listen", listen, *map(str, args)],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd=cwd)
        self.pid = self._process.pid
        self._proxies = []
        try:
            self.port = self.delayed(int(self.wait_for_log(LISTENING, 60).group(1)))
        except BaseException:
            self.close()
            raise

    def delayed(self, port):
        """Returns where clients reach a port of the server: at a proxy that delays, if the checks run with one."""
        if not DELAY_MS:
            return port
        self._proxies.append(DelayingProxy(port, DELAY_MS))
        return self._proxies[-1].port

    def url(self, lobby, user=None):
        token = "" if user is None else f"?token={user}"
        return f"ws://127.0.0.1:{self.port}/ws/{lobby}{token}"

    def log(self):
        with open(self._log.name, encoding="utf-8", errors="replace") as log:
            return COLOUR.sub("", log.read())

    def wait_for_log(self, pattern, seconds):
        """Returns the first match in the log, waiting up to `seconds` for it."""
        end = time.monotonic() + seconds
        while True:
            ended = self._process.poll() is not None
            if match := re.search(pattern, self.log()):
                return match
            if ended or time.monotonic() > end:
                why = f"lobbyd ended with {self._process.returncode}" if ended else f"not within {seconds} s"
                raise AssertionError(f"no log line matches {pattern!r}: {why}; the log's end:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def terminate(self):
        self.signal(signal.SIGTERM)

    def signal(self, number):
        self._process.send_signal(number)

    def exit_code(self, seconds=60):
        """Waits for the process to exit, and returns its exit code."""
        return self._process.wait(seconds)

    def close(self):
        if self._process.poll() is None:
            self.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        while self._proxies:
            self._proxies.pop().close()
        self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def free_port():
    """A port for a program that cannot choose one itself. It is none of those that the kernel gives to port 0 and to connections,
    so nothing takes it before the program does."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        first, last = map(int, file.read().split())
    ports = [*range(10_000, first), *range(last + 1, 65_536)] or range(first, last + 1)
    while True:
        port = secrets.choice(ports)
        with socket.socket() as probe:
            # As servers do: a port of connections that have just ended is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def default_binary():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.normpath(os.path.join(here, "../../target/release/lobbyd"))
