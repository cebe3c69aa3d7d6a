"""Checks of pages in Chromium: the browser and the pictures that they share, the command line, and the report."""

import argparse
import asyncio
import os
import sys
import traceback

from lobbyd import default_binary
from tabs import DESKTOP, PHONE, Browser


class Rig:
    """The program and the browser of all checks."""

    def __init__(self, binary, browser, pictures=None, readme=None):
        self.binary, self.browser, self.pictures, self.readme = binary, browser, pictures, readme

    async def show(self, tab, name, in_readme=None):
        """Checks a page in all sizes and colours, and keeps pictures of it. `in_readme`: name of its picture in the README."""
        if self.readme and in_readme:
            await tab.look((1000, 660))
            await asyncio.sleep(0.4)
            await tab.picture(os.path.join(self.readme, f"{in_readme}.png"))
        for size in PHONE, DESKTOP:
            for dark in False, True:
                await tab.look(size, dark)
                await asyncio.sleep(0.3)
                await tab.check()
                if self.pictures:
                    await tab.picture(os.path.join(self.pictures, f"{name}-{size[0]}-{'dark' if dark else 'light'}.png"))
        await tab.look(DESKTOP)


def main(checks, rig=Rig):
    """Reads the command line, runs the checks that it names, and ends the process: with 1 if one has failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures")
    parser.add_argument("--readme")
    parser.add_argument("--only", default="")
    parser.add_argument("lobbyd", nargs="?", default=default_binary())
    options = parser.parse_args()
    sys.exit(asyncio.run(run([check for check in checks if options.only in check.__name__], rig, options)))


async def run(checks, rig, options):
    failed = 0
    for folder in filter(None, [options.pictures, options.readme]):
        os.makedirs(folder, exist_ok=True)
    async with Browser() as browser:
        shared = rig(options.lobbyd, browser, options.pictures, options.readme)
        for check in checks:
            try:
                await check(shared)
                print(f"ok     {check.__name__.replace('_', ' ')}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED {check.__name__.replace('_', ' ')}\n{traceback.format_exc()}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0
