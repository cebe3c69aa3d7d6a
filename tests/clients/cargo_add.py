#!/usr/bin/env python3
"""Follows the documentation's section 'From `cargo add` to a reproduced bug', with its own text, in a crate of its own.

    tests/clients/run --cargo-add

Makes a crate in a temporary folder and runs the section's commands in it. Its Rust blocks become src/main.rs. The simulator must find
the bug. Then a player loses the connection and comes back, while the server records; the replay must meet the same bug; and the last
block must mend it. Exit 0 only if all checks pass.
"""

import asyncio
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from lobbyd import Lobbyd
from peers import Python

REPOSITORY = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
HEADING = "## From `cargo add` to a reproduced bug\n"
# Kept between runs, so that only the first one compiles the dependencies.
TARGET = os.path.join(REPOSITORY, "target", "cargo-add")


def blocks():
    """Returns the kind and the text of each code block of the section, in the README or a page of the guide."""
    paths = [os.path.join(REPOSITORY, "README.md"), *sorted(glob.glob(os.path.join(REPOSITORY, "src/guide/*.md")))]
    found = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            found += file.read().split(HEADING)[1:]
    assert len(found) == 1, f"the section is there {len(found)} times"
    section = re.split(r"^## ", found[0], flags=re.MULTILINE)[0]
    return re.findall(r"^```(\w+)[^\n]*\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


class Crate:
    """The crate of the section, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {**os.environ, "CARGO_TARGET_DIR": TARGET, "CARGO_TERM_COLOR": "never"}
        self.environment.pop("LOBBYD_PLAN", None)
        self.binary = os.path.join(TARGET, "debug", "race")

    def run(self, command, **variables):
        """Runs a command of the section. Returns its exit code and its output."""
        folder = os.path.join(self.folder, "race")
        done = subprocess.run(
            command, shell=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=folder if os.path.exists(folder) else self.folder, env={**self.environment, **variables})
        return done.returncode, done.stdout

    def must_run(self, command, **variables):
        code, output = self.run(command, **variables)
        assert code == 0, f"`{command}` ended with {code}:\n{output}"
        return output

    def take_versions_of(self, lock):
        """`cargo add` names the newest versions of today; the crate is built with those that the repository is tested with."""
        with open(lock, encoding="utf-8") as file:
            versions = dict(re.findall(r'^name = "([^"]+)"\nversion = "([^"]+)"$', file.read(), re.MULTILINE))
        manifest = os.path.join(self.folder, "race", "Cargo.toml")
        with open(manifest, encoding="utf-8") as file:
            text = file.read()
        # `log = "1"` and `serde = { version = "1", … }`.
        added = re.compile(r'^([\w-]+)( = (?:\{ version = )?)"[^"]*"', re.MULTILINE)
        head, dependencies = text.split("[dependencies]\n")
        with open(manifest, "w", encoding="utf-8") as file:
            file.write(head + "[dependencies]\n" + added.sub(lambda found: f'{found[1]}{found[2]}"{versions[found[1]]}"', dependencies))
        shutil.copy(lock, os.path.join(self.folder, "race"))

    def write(self, text):
        with open(os.path.join(self.folder, "race", "src", "main.rs"), "w", encoding="utf-8") as file:
            file.write(text)


def matches(shown, output):
    """Whether the lines of a text block are in the output, in this order. Numbers may differ, and `…` stands for other lines."""
    output = iter(output.splitlines())
    for line in shown.splitlines():
        # The width of a number changes the spaces after it.
        words = [r"[\d.]+".join(re.escape(part) for part in re.split(r"\d[\d.]*", word)) for word in line.split()]
        pattern = re.compile(" +".join(words))
        if line != "…" and not any(pattern.search(other) for other in output):
            return False
    return True


async def lose_and_return(server):
    """Ann plays, loses her connection, and comes back."""
    library = Python()
    ann = await library.open(server.url("chess", "ann"))
    await ann.expect("welcome")
    await ann.expect("presence_state")
    await ann.say("run")
    while (await ann.expect("track"))["runners"][0]["at"] == 0:
        pass
    await ann.drop()
    # In a thread: the library closes the socket in this one. The server notices it when it reads, or when it writes a state.
    await asyncio.to_thread(server.wait_for_log, "hangup|write_failed", 60)
    ann = await library.open(server.url("chess", "ann"))
    await ann.expect("welcome")
    await ann.expect("presence_state")
    runners = (await ann.expect("track"))["runners"]
    assert [runner["user"] for runner in runners] == ["ann", "ann"], runners
    # A newer connection of ann takes over her seat, and on_rejoin sends it the state.
    newer = await library.open(server.url("chess", "ann"))
    await newer.expect("welcome")
    await newer.expect("presence_state")
    await newer.expect("track")
    server.terminate()
    # The states of the last ticks may come before the goodbye.
    while (message := json.loads(await newer.next()))["type"] == "track":
        pass
    assert message["type"] == "goodbye" and message["reason"] == "server_shutdown", message
    return newer


def main():
    found = blocks()
    code = [text for kind, text in found if kind == "rust"]
    commands = [text for kind, text in found if kind == "sh"]
    shown = [text for kind, text in found if kind == "text"]
    assert len(code) == 4 and len(commands) == 3 and len(shown) == 2, [kind for kind, _ in found]

    with tempfile.TemporaryDirectory(prefix="lobbyd-cargo-add-") as folder:
        crate = Crate(folder)
        for command in commands[0].splitlines():
            if command != "cd race":
                crate.must_run(command.replace("path/to/lobbyd", shlex.quote(REPOSITORY)))
        crate.take_versions_of(os.path.join(REPOSITORY, "Cargo.lock"))
        crate.write("\n".join(code[:3]))
        crate.must_run("cargo build", RUSTFLAGS="-D warnings")
        print("ok     the crate builds without warnings", flush=True)

        code_of_test, output = crate.run("cargo test")
        assert code_of_test != 0 and matches(shown[0], output), f"the simulator should report\n{shown[0]}\nbut:\n{output}"
        plan = re.search(r"repeat it with: LOBBYD_PLAN='([^']*)' cargo test", output).group(1)
        report = output[output.index("seed "):output.index("repeat it with")]
        _, again = crate.run("cargo test", LOBBYD_PLAN=plan)
        assert report in again, f"the command should repeat the run:\n{report}\nbut:\n{again}"
        print("ok     the simulator finds the bug, and its command repeats the run", flush=True)

        journal = os.path.join(folder, "race", "session")
        assert "--journal session" in commands[1], commands[1]
        with Lobbyd(crate.binary, "--journal", journal) as server:
            asyncio.run(asyncio.wait_for(play(server), 180))
        print("ok     a player meets the bug; SIGTERM says goodbye and ends with 0", flush=True)

        code_of_replay, output = crate.run(commands[2])
        assert code_of_replay == 1 and matches(shown[1], output), f"the replay should print\n{shown[1]}\nbut:\n{output}"
        print("ok     the replay of the session meets the bug", flush=True)

        program = "\n".join(code[:3])
        mended = re.sub(r"    fn on_leave\(.*?\n    }\n", lambda _: code[3], program, count=1, flags=re.DOTALL)
        assert mended != program
        crate.write(mended)
        crate.must_run("cargo test")
        code_of_replay, output = crate.run(commands[2])
        assert code_of_replay == 1 and "is sent something else from its byte" in output, output
        print("ok     the mended game passes the simulator, and its replay differs from the session", flush=True)


async def play(server):
    newer = await lose_and_return(server)
    end = await newer.next()
    assert (end.code, end.reason) == (1001, "server_shutdown"), end
    # In a thread: the library answers the close of the older connection in this one.
    assert await asyncio.to_thread(server.exit_code, 60) == 0, "the drain should end with 0"


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"FAILED {error}")
