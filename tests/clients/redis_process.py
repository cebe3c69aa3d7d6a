"""Starts redis-server for a test, on a socket file in a folder of its own. Standard library only."""

import os
import shutil
import signal
import socket
import subprocess
import time


class Redis:
    """A running Redis. It writes its data only when it is told to. As a context manager it ends at the end of the block."""

    def __init__(self, folder):
        self.folder = folder
        self.socket = os.path.join(folder, "redis.sock")
        self._dump, self._older = (os.path.join(folder, name) for name in ("dump.rdb", "older.rdb"))
        self._process = None
        self.start()

    def start(self):
        """Starts with the data that was saved last."""
        self._process = subprocess.Popen(
            ["redis-server", "--port", "0", "--save", "", "--appendonly", "no", "--dir", self.folder, "--unixsocket", self.socket,
             "--loglevel", "warning"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while True:
            try:
                if self.call("PING") == b"+PONG":
                    return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"redis-server does not answer, exit code {self._process.poll()}")
            time.sleep(0.01)

    @property
    def pid(self):
        return self._process.pid

    def call(self, *words, seconds=10):
        """Returns the first line of the reply."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(seconds)
            sock.connect(self.socket)
            sock.sendall(b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in map(str, words))]))
            reply = b""
            while b"\r\n" not in reply:
                piece = sock.recv(4096)
                if not piece:
                    break           # its own connection was killed
                reply += piece
        return reply.partition(b"\r\n")[0]

    def save(self):
        assert self.call("SAVE") == b"+OK", "redis-server cannot save"

    def keep_copy(self):
        """Keeps a copy of its data, for `replace_by_copy`."""
        self.save()
        shutil.copyfile(self._dump, self._older)

    def has_copy(self):
        return os.path.exists(self._older)

    def kill(self):
        if self._process and self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def replace_by_copy(self):
        """Its data become those of the copy, as after a failover to a replica that lags behind. It must have been killed."""
        shutil.copyfile(self._older, self._dump)

    def lose_everything(self):
        """It begins without data. It must have been killed."""
        for file in self._dump, self._older:
            if os.path.exists(file):
                os.remove(file)

    def signal(self, number):
        os.kill(self.pid, number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.signal(signal.SIGCONT) if self._process.poll() is None else None
        self.kill()
