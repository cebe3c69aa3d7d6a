#!/usr/bin/env python3
"""Reads journals as src/journal/FORMAT.md specifies them, and nothing else: a proof that the specification is complete.

    tests/clients/read_journal.py [--summary] [--example src/journal/FORMAT.md] JOURNAL...

The files are consecutive segments; a segment 1 begins another session. Verifies the checks of all blocks, the chain of segments, the range of each
field, and which entry follows which. Prints a line for each entry, or with --summary the number of entries of each kind. With
--example the example of the specification is read too, and the checksums of its output are verified. Standard library only.
Exit 0 if all is well-formed, 1 if not.
"""

import argparse
import re
import sys
import zlib
from collections import Counter

FIRST_LINE = b"lobbyd journal 3\n"
MAX_BLOCK = 64 << 20
MAX_COUNT = 1 << 62
KINDS = {
    1: "segment", 2: "time", 3: "accept", 4: "bytes", 5: "head", 6: "asked", 7: "refused", 8: "answered", 9: "rest",
    10: "unread rest", 11: "hangup", 12: "writable", 13: "timeout", 14: "authorized", 15: "command", 16: "reload",
    17: "omitted reload", 18: "operator", 19: "report taken", 20: "drain", 21: "stop", 22: "shed", 23: "closure", 24: "flush",
    25: "wrote", 26: "blocked", 27: "failed", 28: "flushed", 29: "flushed nothing", 30: "max work", 31: "unread",
    32: "wall time", 33: "join cluster", 34: "cluster state", 35: "cluster attached", 36: "cluster entry",
    37: "cluster reachable", 38: "cluster detached", 39: "cluster taken",
}
INPUTS = {3, 4, 5, *range(11, 24), *range(31, 40)}
CLOSE_REASONS = {1: 34, 2: 34, 3: 38}
# Builds of edition 3 without lobby control, without compression, and with both.
COUNTERS = {1: (14 + 34 + 4,), 2: (14 + 34 + 4,), 3: (16 + 35 + 4, 16 + 37 + 7, 21 + 38 + 7)}
CLOCK_NUMBERS = 10 + 528 + 2


class Malformed(Exception):
    """The journal is not as the specification says."""


def require(condition, problem):
    if not condition:
        raise Malformed(problem)


# ---- XXH64 ----

PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
MASK = (1 << 64) - 1


def rotated(value, bits):
    return (value << bits | value >> 64 - bits) & MASK


def round_of(lane, word):
    return rotated((lane + word * PRIMES[1]) & MASK, 31) * PRIMES[0] & MASK


def xxh64(data, seed):
    def word(at, size):
        return int.from_bytes(data[at:at + size], "little")

    at = 0
    if len(data) >= 32:
        lanes = [(seed + PRIMES[0] + PRIMES[1]) & MASK, (seed + PRIMES[1]) & MASK, seed, (seed - PRIMES[0]) & MASK]
        while at + 32 <= len(data):
            lanes = [round_of(lane, word(at + 8 * n, 8)) for n, lane in enumerate(lanes)]
            at += 32
        total = sum(rotated(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18))) & MASK
        for lane in lanes:
            total = ((total ^ round_of(0, lane)) * PRIMES[0] + PRIMES[3]) & MASK
    else:
        total = (seed + PRIMES[4]) & MASK
    total = (total + len(data)) & MASK
    while at + 8 <= len(data):
        total = (rotated(total ^ round_of(0, word(at, 8)), 27) * PRIMES[0] + PRIMES[3]) & MASK
        at += 8
    if at + 4 <= len(data):
        total = (rotated(total ^ word(at, 4) * PRIMES[0] & MASK, 23) * PRIMES[1] + PRIMES[2]) & MASK
        at += 4
    for byte in data[at:]:
        total = rotated(total ^ byte * PRIMES[4] & MASK, 11) * PRIMES[0] & MASK
    for shift, prime in ((33, PRIMES[1]), (29, PRIMES[2])):
        total = (total ^ total >> shift) * prime & MASK
    return total ^ total >> 32


# ---- types ----

class Fields:
    """Reads fields from the front of some bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def is_empty(self):
        return self.at == len(self.data)

    def take(self, count):
        require(self.at + count <= len(self.data), "a field is longer than the rest")
        self.at += count
        return self.data[self.at - count:self.at]

    def byte(self, below=256):
        value = self.take(1)[0]
        require(value < below, f"{value} selects none of {below} forms")
        return value

    def flag(self):
        return self.byte(2) == 1

    def number(self, below=1 << 64):
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            require(shift < 70, "a number has more than ten bytes")
        require(byte != 0 or shift == 0, "a number has more bytes than needed")
        require(value < below, f"the number {value} is not below {below}")
        return value

    def u16(self):
        return self.number(1 << 16)

    def u32(self):
        return self.number(1 << 32)

    def count(self):
        return self.number(MAX_COUNT + 1)

    def slice(self):
        return self.take(self.number())

    def text(self):
        try:
            return self.slice().decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"a text is not UTF-8: {error}") from None

    def option(self, read):
        return read() if self.flag() else None

    def list(self, read):
        return [read() for _ in range(self.number())]

    def ip(self):
        version = self.byte()
        require(version in (4, 6), f"there is no IP version {version}")
        octets = self.take(4 if version == 4 else 16)
        return ".".join(map(str, octets)) if version == 4 else ":".join(octets[n:n + 2].hex() for n in range(0, 16, 2))

    def peer(self):
        if self.data[self.at:self.at + 1] == b"\0":
            self.byte()
            return "unix"
        ip = self.ip()
        port = self.u16()
        return f"{ip}:{port}" if "." in ip else f"[{ip}]:{port} flow={self.u32()} scope={self.u32()}"

    def duration(self):
        return self.number() + self.number(10 ** 9) / 10 ** 9

    def wrapped(self, read):
        """Reads fields in braces: `read` must use the slice up."""
        inner = Fields(self.slice())
        value = read(inner)
        require(inner.is_empty(), "bytes are left over in a slice")
        return value


def shape(fields):
    length, is_upper = fields.number(MAX_BLOCK + 1), fields.flag()
    text = b""
    while len(text) < length:
        run = fields.number(length - len(text) + 1)
        text += b"x" * run
        if len(text) < length:
            end = fields.take(1)
            require(end in b"\r\n", f"{end} ends a run")
            text += end
    require(not is_upper or text[:1] == b"x", "a line end is no capital letter")
    return b"X" + text[1:] if is_upper else text


def refusal(fields):
    return fields.u16(), fields.text(), fields.text(), fields.flag()


def claim(fields):
    form = fields.byte(3)
    if form != 1:
        return None if form == 0 else "malformed"
    session, was = fields.take(16).hex(), fields.option(lambda: fields.take(16).hex())
    return session, was, fields.option(lambda: [fields.number(1 << 53) for _ in range(3)])


def facts(fields, max_header_bytes, edition):
    form = fields.byte(16)
    require(form & 3 != 3, "there is no probe 3")
    probe = (None, "live", "ready")[form & 3], "HEAD" if form & 4 else "GET"
    address, origin = fields.ip(), fields.flag()
    asks_for = fields.byte(6)
    if asks_for in (0, 4):
        upgrade = refusal(fields)
    elif asks_for in (1, 5):
        bits = fields.byte(16) if asks_for == 5 else None
        require(bits in (None, 0) or bits >= 8, f"there is no window of {bits} bits")
        accept, subprotocol = fields.text(), fields.option(lambda: fields.number(max_header_bytes + 1))
        compression = "" if bits is None else f" window={bits or 'any'}"
        upgrade = f"accept={accept} subprotocol={subprotocol}{compression}"
    else:
        upgrade = "events" if asks_for == 2 else f"post of {fields.number(1 << 32)} bytes, flags {fields.byte(4)}"
    if asks_for in (2, 3, 4) and fields.byte(3) == 2:
        fields.number(max_header_bytes + 1)
    claimed = claim(fields) if edition >= 3 else None
    file = (fields.number(1 << 16), fields.text(), fields.number((1 << 16) + 1)) if form & 8 else None
    return probe, address, origin, upgrade, claimed, file


def destination(fields):
    form = fields.byte(3)
    return "nowhere" if form == 0 else f"lobby {fields.text()}" if form == 1 else "invalid code"


def word(fields):
    text = fields.text()
    require(re.fullmatch("[a-z0-9_]{1,32}", text), f"{text!r} is no word")
    return text


def close_code(fields):
    number = fields.u16()
    require(4400 <= number <= 4699, f"{number} is no close code of an application")
    return number, word(fields)


def authorization(fields):
    form = fields.byte(5)
    if form == 4:
        return f"refused: {close_code(fields)}"
    if form == 1:
        return f"refused: reason {fields.byte(max(CLOSE_REASONS.values()))}"
    if form == 2:
        return f"pending: {fields.option(fields.text)}"
    user = fields.text()
    tier = fields.option(lambda: (fields.u32(), fields.duration(), fields.u32()))
    lobby, expiry = fields.option(fields.text), fields.option(fields.number)
    data = fields.slice() if form == 3 else None
    return f"allowed: user={user} tier={tier} lobby={lobby} expiry={expiry} data={data}"


def random_state(fields):
    return [fields.number() for _ in range(4)]


def decisions(fields):
    return (fields.option(lambda: destination(fields)), fields.option(lambda: authorization(fields)),
            fields.option(lambda: random_state(fields)))


def payload(fields):
    return ("json", "text")[fields.byte(2)], fields.text()


def operator(fields):
    form = fields.byte(8)
    if form == 0:
        return "publish", fields.text(), payload(fields)
    if form == 1:
        return "send", fields.text(), payload(fields)
    if form == 2:
        return "ping", fields.text(), fields.duration()
    if form == 3:
        target, name = fields.byte(3), fields.text()
        require(target != 2 or not name, "all members have no name")
        return "kick", ("user", "lobby", "all")[target], name, fields.flag()
    if form == 4:
        return "lock", fields.text(), fields.flag()
    if form == 5:
        return "close", fields.text()
    if form == 6:
        return ("drain",)
    command, number = fields.byte(4), fields.u32()
    require(command >= 2 or number == 0, "pause and resume have no number")
    return "clock", ("pause", "resume", "step", "slow")[command], number


def log_entry(fields):
    index, time, form = fields.count(), fields.count(), fields.byte(4)
    if form == 0:
        return index, time, "founded"
    node = fields.number()
    if form == 2:
        return index, time, f"ended {node}"
    return index, time, f"attached {node} {fields.text()}" if form == 1 else f"operations of {node}: {len(fields.slice())} bytes"


def checkpoint(fields):
    read = {name: fields.count() for name in ("now", "wall time at 0", "wheel", "seats", "epoch", "closes", "ticket")}
    read["random"] = random_state(fields)
    read["room"], read["next batch"] = fields.u32(), fields.count()
    read["counters"], read["clock"] = fields.list(fields.count), fields.list(fields.count)
    read["users"] = fields.list(lambda: (fields.text(), fields.number(), fields.number()))
    read["addresses"] = fields.list(lambda: (fields.ip(), fields.number()))
    require(len(read["clock"]) in (0, CLOCK_NUMBERS), f"{len(read['clock'])} numbers of the game clock")
    for order in ([max(user[1:]) for user in read["users"]], [address[1] for address in read["addresses"]]):
        order = [-(-nanos // 1000) for nanos in order]
        require(order == sorted(order), "the buckets that are full first come first")
    return read


def segment(fields):
    read = {"session": fields.number(), "number": fields.count(), "chain": fields.u32(), "wall time": fields.count(),
            "seed": fields.number(), "turn": fields.count(), "build": fields.text(), "application": fields.text()}
    require(read["number"] >= 1, "segments are numbered from 1")
    lines = fields.text().split("\n")
    require(lines.pop() == "" and all("=" in line for line in lines), "a line of the configuration is incomplete")
    read["configuration"] = dict(line.split("=", 1) for line in lines)
    form = fields.byte(17)
    read["start"] = None
    if form:
        start = checkpoint(fields)
        if form - 1 & 1:
            start["close codes"] = fields.list(lambda: (close_code(fields), fields.count()))
            start["error codes"] = fields.list(lambda: (word(fields), fields.count()))
        for part in (2, 4):
            if form - 1 & part:
                fields.list(lambda: (fields.ip(), fields.number()))
        read["start"] = start, fields.slice()
    require(read["start"] is None or read["number"] > 1, "segment 1 has no start")
    read["edition"] = 1 if fields.is_empty() else fields.number()
    require(read["edition"] in (1, 2, 3), f"there is no edition {read['edition']}")
    read["compressor"] = None if fields.is_empty() else fields.text()
    if read["start"] is not None:
        counters = read["start"][0]["counters"]
        require(len(counters) in COUNTERS[read["edition"]], f"{len(counters)} counters")
    return read


# ---- blocks ----

class Torn(Exception):
    """The stream ends inside a first line or a block."""


class Blocks:
    """Reads the blocks of consecutive files, and verifies their checks."""

    def __init__(self):
        self.check = self.before = 0    # checks of the last block, and of the last one of the segment before

    def read(self, data):
        """Yields for each block whether it is the first of its segment, and its payload."""
        at = 0

        def take(count):
            nonlocal at
            if at + count > len(data):
                raise Torn(f"{len(data) - at} bytes of the block are there")
            at += count
            return data[at - count:at]

        require(data and data.startswith(FIRST_LINE[:len(data)]), "no journal of this version")
        while at < len(data):
            start = data.startswith(FIRST_LINE[:4], at)
            if start:
                require(take(len(FIRST_LINE)) == FIRST_LINE, "a segment of another version")
                self.before, self.check = self.check, 0
            header = take(12)
            length, length_check, block_check = (int.from_bytes(header[n:n + 4], "little") for n in (0, 4, 8))
            require(zlib.crc32(header[:4], self.check) == length_check, f"the length of the block before byte {at} is damaged")
            require(1 <= length <= MAX_BLOCK, f"a block of {length} bytes")
            payload = take(length)
            self.check = zlib.crc32(payload, self.check)
            require(self.check == block_check, f"the block before byte {at} is damaged")
            yield start, payload


# ---- entries ----

class Journal:
    """What has been read so far."""

    def __init__(self, report):
        self.report, self.kinds = report, Counter()
        self.blocks = Blocks()
        self.segment = None         # entry 1 of the current segment
        self.now = self.turn = None
        self.generations = {}
        self.previous = None        # kind of the last entry
        self.in_output = False
        self.inputs = self.writes = 0
        self.max_work = None

    def read(self, data):
        try:
            for start, payload in self.blocks.read(data):
                fields = Fields(payload)
                while not fields.is_empty():
                    kind = fields.byte()
                    require(kind in KINDS, f"there is no entry {kind}")
                    require((kind == 1) == (start and fields.at == 1), "entry 1 is the first of a segment, and only there")
                    if kind != 1:
                        self.follows(kind)
                    shown = self.begin(fields) if kind == 1 else self.entry(kind, fields)
                    require(kind not in (1, 24) or fields.is_empty(), f"the block goes on after entry {kind}")
                    self.previous = kind
                    self.kinds[KINDS[kind]] += 1
                    time = "-" if self.now is None else f"{self.now / 1e6:.6f}"
                    self.report(f"{time} {KINDS[kind]} {shown}".rstrip())
        except Torn as torn:
            self.kinds["torn"] += 1
            self.report(f"torn: {torn}")

    def follows(self, kind):
        """Whether an entry of this kind may follow the entries so far."""
        name, before = KINDS[kind], self.previous
        if self.in_output:
            require(25 <= kind <= 29, f"{name} in the output of a turn")
            require(kind < 28 or (kind == 28) == (self.writes > 0), f"{name} after {self.writes} writes")
            self.writes += 1
        else:
            require(not 25 <= kind <= 29, f"{name} in the input of a turn")
        if kind in (6, 7):
            require(before == 5, f"{name} after entry {before}")
        elif kind == 8:
            require(before == 6, f"{name} after entry {before}")
        elif kind in (9, 10):
            require(before in (7, 8), f"{name} after entry {before}")
        else:
            require(before != 6, f"{name} after a request without decisions")
        if before == 34:
            require(kind in (34, 35), f"{name} after a part of a state")
        if before == 2:
            require(kind in INPUTS or kind == 30, f"{name} after the time")
        if before == 30:
            require(kind in (4, 5), f"{name} after the limit on work")
        if kind in INPUTS:
            self.inputs += 1
        if kind == 24:
            require(self.inputs > 0, "a turn without input")
            self.in_output, self.inputs, self.writes = True, 0, 0
        elif kind in (28, 29):
            self.in_output = False

    def begin(self, fields):
        read, last = segment(fields), self.segment
        if last is None or read["number"] == 1 and read["session"] != last["session"]:
            self.now = 0 if read["number"] == 1 else None
            require(read["number"] > 1 or read["chain"] == read["turn"] == 0, "segment 1 begins a session")
            self.in_output, self.inputs = False, 0
        else:
            require(self.previous in (28, 29), f"a segment begins after entry {self.previous}")
            for name in ("session", "wall time", "seed", "build", "application", "configuration", "edition", "compressor"):
                require(read[name] == last[name], f"the {name} differs from that of the segment before")
            require(read["number"] == last["number"] + 1, f"segment {read['number']} after {last['number']}")
            require(read["chain"] == self.blocks.before, "the chain is broken")
            require(read["turn"] == self.turn, f"turn {read['turn']} after {self.turn}")
        if read["start"] is not None:
            now = read["start"][0]["now"]
            require(self.now in (None, now), f"a checkpoint of the time {now} at {self.now}")
            self.now = now
        self.segment, self.turn, self.generations, self.max_work = read, read["turn"], {}, (1 << 64) - 1
        return " ".join(f"{name}={value!r}" for name, value in read.items() if name != "configuration")

    def conn(self, fields):
        number = fields.number(1 << 25)
        index = number >> 1
        if number & 1:
            generation = fields.number(1 << 40)
            require(generation > 0 and generation != self.generations.get(index), "a generation that is known already")
            self.generations[index] = generation
        require(index in self.generations, f"the generation of the connection {index} is unknown")
        return f"conn={index}.{self.generations[index]}"

    def conns(self, fields):
        found = []
        while not fields.is_empty():
            found.append(self.conn(fields))
        return found

    def entry(self, kind, fields):
        if kind == 2:
            advance = fields.count()
            require(advance > 0, "the time does not advance")
            if self.now is not None:
                self.now += advance
                require(self.now <= MAX_COUNT, "the time is too large")
            return advance
        if kind == 3:
            return fields.peer()
        if kind in (4, 5, 14):
            conn = self.conn(fields)
            if kind == 4:
                return f"{conn} {fields.slice()!r}"
            return f"{conn} {fields.wrapped(shape if kind == 5 else authorization)}"
        if kind == 6:
            max_header_bytes = size(self.segment["configuration"].get("max_header_bytes", "64MiB"))
            return fields.wrapped(lambda inner: facts(inner, max_header_bytes, self.segment["edition"]))
        wrapped = {7: refusal, 8: decisions, 10: shape, 18: operator, 31: self.conns}
        if kind in wrapped:
            return fields.wrapped(wrapped[kind])
        if kind in (9, 15, 16):
            secrets = self.segment["configuration"].get("journal_secrets", "omit")
            require(kind != 16 or secrets == "keep", "the contents of a reload are recorded")
            return fields.slice()
        if kind in (11, 12):
            return self.conn(fields)
        if kind == 17:
            return fields.number()
        if kind == 24:
            self.turn += 1
            return self.turn
        if kind in (25, 26, 27):
            taken = None if kind == 25 else fields.number()
            return f"taken={taken} check={fields.take(2)[::-1].hex()}"
        if kind == 28:
            return fields.take(8)[::-1].hex()
        if kind == 30:
            limit = fields.number()
            require(limit != self.max_work, "the limit on work does not change")
            self.max_work = limit
            return limit
        if kind == 32:
            return fields.count()
        if kind == 34:
            part = fields.slice()
            require(part, "an empty part of a state")
            return f"{len(part)} bytes"
        if kind == 35:
            return f"node={fields.number()} index={fields.count()} state={fields.flag()}"
        if kind == 36:
            return log_entry(fields)
        if kind == 37:
            return fields.flag()
        if kind == 39:
            place = (fields.number(), fields.number()) if fields.byte(2) else None
            return f"place={place} length={fields.number()} check={fields.take(8)[::-1].hex()}"
        return ""


def size(text):
    """A size in bytes as the options of the program write it: 65536, 64KiB or 16MiB."""
    digits, unit = re.fullmatch(r"(\d+) ?(KiB|MiB|)", text).groups()
    return int(digits) << {"": 0, "KiB": 10, "MiB": 20}[unit]


# ---- the example ----

def check_example(path):
    """Reads the example of the specification, and verifies the checksums of its two writes."""
    with open(path, encoding="utf-8") as file:
        section = file.read().split("## Example\n")[1]
    response, frame, dump = (block.removeprefix("text\n") for block in section.split("```")[1::2])
    frame, data = (bytes.fromhex("".join(line.split("  ")[0] for line in text.splitlines())) for text in (frame, dump))
    lines = []
    Journal(lines.append).read(data)
    name = response.rstrip().rsplit(" ", 1)[1]
    redacted = response.replace(name, "x" * len(name)).replace("\n", "\r\n").encode()
    writes = [xxh64(written, 1) for written in (redacted, frame)]
    sums = [xxh64(b"".join(write.to_bytes(8, "little") for write in writes[:n]), 0) for n in (1, 2)]
    expected = [f"check={write & 0xFFFF:04x}" for write in writes] + [f"{total:016x}" for total in sums]
    found = [line.split()[-1] for line in lines if " wrote " in line] + [line.split()[-1] for line in lines if " flushed " in line]
    require(expected == found, f"the checksums of the example are {found}, and should be {expected}")
    print(f"{path}: the example has {len(lines)} entries, and its checksums are right")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--example")
    parser.add_argument("journals", nargs="*")
    given = parser.parse_args()
    require(xxh64(b"", 0) == 0xEF46DB3751D8E999, "XXH64 is wrong")
    if given.example:
        check_example(given.example)
    if given.journals:
        journal = Journal((lambda line: None) if given.summary else print)
        for path in given.journals:
            with open(path, "rb") as file:
                journal.read(file.read())
        if given.summary:
            print(", ".join(f"{count} {name}" for name, count in journal.kinds.most_common()))


if __name__ == "__main__":
    try:
        main()
    except Malformed as problem:
        sys.exit(f"read_journal.py: {problem}")
