"""Double-entry books of sessions: what members have sent, and what each session has received, across all its connections.

A `SessionBook` observes the messages that a client receives. It knows nothing of the client's own position and lists, so it also
checks those of a page. `Books.check` compares the books of all members at the end:

- Every numbered frame of a lobby reaches every session of the lobby exactly once and in order, between the session's first
  `presence_state` and its last frame. A session gets its own messages as `ack`s.
- All members see the same frame under the same number, and no message has two numbers.
- Direct messages are numbered without gaps, and no session receives one twice.
- Every request is settled once. One that was executed is in the lobby's sequence; one that was refused is not.
- `recovered: false` is only said with a reason, and only then may frames be missing.
- Presence lists that are kept up to date by diffs equal those that the server sends, and at the end the truth.
"""

import asyncio
import collections
import json


# Counts of what the faults of a run must have caused, or it has shown nothing.
EFFECTS = "resumes", "replayed", "repeated"
# From so many resumes on, a request must also have been settled by `done`. This is rare: most acks are replayed.
RESUMES_WITH_DONE = 5000
# Share of the direct messages that may go to a page that is gone, while the server does not know it (`Books.end_lag`), and a few: in a short
# run there may be some by chance.
MAX_UNKNOWN_ENDS, FEW_UNKNOWN_ENDS = 0.002, 5


class Segment:
    """A session from its first `presence_state` until the server forgets it."""

    def __init__(self, book, epoch, start):
        self.book, self.epoch, self.start, self.position = book, epoch, start, start
        self.frames = {}            # by seq: (entry, bytes)
        self.gaps = []              # (first, last): not received, and the server has said so


class SessionBook:
    """What one session receives, in the order of arrival."""

    def __init__(self, books, lobby, user, continues=None, is_page=False):
        self.books, self.lobby, self.user, self.is_page = books, lobby, user, is_page
        self.continues = continues          # the book of the session that this one names in `was`
        self.name = f"{user}/{len(books.sessions)}"
        books.sessions.append(self)
        books.by_user[user].append(self)
        self.refs = {}                      # by ref: id of the message
        self.segment = None
        self.segments = []
        self.epoch = self.conn = None
        self.n = None                       # of the last direct message
        self.view = None                    # by conn: (user, away)
        self.awaits_state = False           # between `welcome` and `presence_state`
        self.replay = self.replayed = self.replayed_bytes = 0
        self.gap = None                     # of the last welcome, until its presence_state
        self.since_welcome = []             # what has arrived until then
        self.recent = collections.deque(maxlen=6)   # of messages, in brief
        self.starts = []                    # of its connections: what came before, and the welcome, for reports of losses
        self.is_active = True
        self.has_left = False               # said `leave`: the answer may be lost
        self.attempt = None                 # of its connection that was not yet welcome: [begin, end or None]
        self.welcomed_at = None
        self.unplaced = set()               # ids of direct messages that arrived before the session had a position
        self.heard_at = 0.0                 # when the last message arrived
        self.ended_at = None                # seq at which a peer's view is compared

    def problem(self, text):
        self.books.problem(f"{self.name}: {text}")

    # ---- what the client receives ----

    def receive(self, message, size, now):
        kind = message["type"]
        if kind == "welcome":
            self.since_welcome = []
            self.check_remembered(message, now)
        self.heard_at = now
        if self.awaits_state or kind == "welcome":
            self.since_welcome.append(message)
        if kind == "welcome":
            shown = {key: message.get(key) for key in ("seq", "conn", "resumed", "recovered", "replay", "n", "done")}
            position = self.segment.position if self.segment else -1
            self.starts.append((position, f"{list(self.recent)} position {position}, then welcome {shown}"))
        self.recent.append(brief(message))
        if kind == "welcome":
            self.welcome(message, now)
        elif kind == "presence_state":
            self.presence_state(message)
        elif kind == "presence_diff":
            entry = [sorted((x["user"], x["conn"]) for x in message.get(key, [])) for key in ("joins", "leaves", "away", "back")]
            self.numbered(message["seq"], ("diff", json.dumps(entry)), size)
            self.change(message)
        elif kind == "message":
            if message.get("seq") is None:
                self.books.counts["volatile"] += 1
            else:
                self.books.counts["messages"] += 1
                self.numbered(message["seq"], ("message", message["from"], id_of(message["data"])), size)
        elif kind == "ack" and message.get("seq") is not None:
            self.books.counts["acks with seq"] += 1
            self.numbered(message["seq"], ("ack", message.get("ref")), size)
        elif kind == "direct":
            self.direct(message, size)

    def check_remembered(self, welcome, now):
        """The server may forget a session when its grace period is over, or when another session of its user took the seat."""
        holder, self.books.holders[self.user] = self.books.holders.get(self.user), self
        grace = self.books.grace
        is_early = grace and now - self.heard_at < grace
        if self.segment and not welcome["resumed"] and holder is self and is_early and not self.has_left:
            if any(session.may_have_joined_unseen(self.welcomed_at, grace) for session in self.books.by_user[self.user] if session is not self):
                self.books.counts["seats that an unseen connection took over"] += 1
                return
            self.problem(f"the server had forgotten it after {now - self.heard_at:.2f} s: {self.starts[-1:]}, then {welcome}")

    def may_have_joined_unseen(self, since, lag):
        """A page that its client gave up while it connected: the server may have made it a member later than `since`, up to `lag`
        seconds after the client gave it up. It took over the seat, and nobody was told."""
        return self.attempt is not None and (self.attempt[1] is None or self.attempt[1] + lag >= since)

    def connecting(self, now):
        self.attempt = [now, None]

    def disconnected(self, now):
        """Its connection has ended. If it was welcome, no attempt is open."""
        if self.attempt:
            self.attempt[1] = now

    def welcome(self, welcome, now):
        self.attempt, self.welcomed_at = None, now
        counts = self.books.counts
        counts["welcomes"] += 1
        self.awaits_state, self.replayed, self.replayed_bytes, self.gap = True, 0, 0, None
        self.replay = welcome.get("replay", 0)
        if not welcome["resumed"]:
            if self.segment:
                counts["sessions that the server had forgotten"] += 1
                self.books.broken(self.user, now)
            if welcome["recovered"]:
                self.problem(f"a new session cannot recover: {welcome}")
            # Its list is that of the next `presence_state`, perhaps on a later connection, and then after a replay.
            self.segment = self.view = None
        else:
            counts["resumes"] += 1
            if welcome["recovered"]:
                counts["recovered"] += 1
                counts["replayed"] += self.replay
            if self.continues and not self.segment and not welcome["recovered"]:
                counts["resumes by was"] += 1
                # Their first own position is that of the next `presence_state`.
                self.gap = ()
                self.books.broken(self.user, now)
            elif self.segment:
                if welcome["conn"] != self.conn:
                    self.problem(f"resumed with another seat: {self.conn}, then {welcome['conn']}")
                lost = welcome["n"] - self.n
                if welcome["recovered"] and lost:
                    self.problem(f"recovered, but {lost} direct messages are missing before n {welcome['n']}")
                if not welcome["recovered"]:
                    self.gap = (self.segment.position, welcome["seq"], lost, welcome["epoch"] != self.segment.epoch)
                    self.books.broken(self.user, now)
        self.epoch, self.conn, self.n = welcome["epoch"], welcome["conn"], welcome["n"]

    def presence_state(self, state):
        view = {x["conn"]: (x["user"], x.get("away", False)) for x in state["users"]}
        seq, segment = state["seq"], self.segment
        if self.awaits_state:
            self.awaits_state = False
            if self.replayed != self.replay:
                self.problem(f"welcome announced {self.replay} frames, but {self.replayed} came before presence_state: "
                             + ", ".join(map(brief, self.since_welcome[-4:])))
            if self.conn not in view or view[self.conn][0] != self.user:
                self.problem(f"the seat {self.conn} is not in {view}")
        if segment is None or segment.epoch != self.epoch:
            self.begin(seq)
        elif self.gap is not None:
            position, now, lost, differs = self.gap
            if seq < now or now < position:
                self.problem(f"welcome has seq {now}, presence_state {seq}, and the position was {position}")
            segment.gaps.append((position + 1, seq))
            # Of an incomplete session only the direct messages are replayed that are still kept.
            is_full = self.replay >= self.books.direct_frames or self.replayed_bytes + 64 * self.replay + 2000 > self.books.direct_bytes
            self.books.gaps.append((self, segment.epoch, position, seq, lost if is_full else 0, differs, lost))
        elif self.view is not None and seq == segment.position:
            ours = {conn: user for conn, (user, _) in self.view.items()}
            theirs = {conn: user for conn, (user, _) in view.items()}
            if ours != theirs:
                self.problem(f"the diffs lead to {ours}, but the list at seq {seq} is {theirs}")
        self.gap = None
        self.segment.position = max(self.segment.position, seq)
        self.view = view

    def begin(self, start):
        self.segment = Segment(self, self.epoch, start)
        self.segments.append(self.segment)

    def numbered(self, seq, entry, size):
        if self.awaits_state:
            self.replayed += 1
            if self.gap is not None:
                self.problem(f"seq {seq} is replayed although nothing was recovered")
            if self.segment is None:
                # The connection that began the session was lost before its first `presence_state` arrived.
                self.begin(seq - 1)
        segment = self.segment
        if segment is None:
            return self.problem(f"seq {seq} before the first presence_state")
        if seq in segment.frames:
            return self.books.double(f"{self.name}: seq {seq} twice: {segment.frames[seq][0]}, then {entry}")
        if seq <= segment.position:
            self.problem(f"seq {seq} after {segment.position}: {entry}")
        segment.frames[seq] = (entry, size)
        segment.position = max(segment.position, seq)

    def change(self, diff):
        if self.view is None:
            return
        for x in diff["leaves"]:
            if self.view.pop(x["conn"], (None,))[0] != x["user"]:
                self.problem(f"{x} leaves, but is not a member")
        for x in diff["joins"]:
            if x["conn"] in self.view:
                self.problem(f"{x} joins, but is already a member")
            self.view[x["conn"]] = (x["user"], False)
        for key, away in ("away", True), ("back", False):
            for x in diff.get(key, []):
                if self.view.get(x["conn"], (None,))[0] != x["user"]:
                    self.problem(f"{x} is {key}, but is not a member")
                self.view[x["conn"]] = (x["user"], away)

    def direct(self, message, size):
        n, message_id = message["n"], id_of(message["data"])
        self.books.counts["direct messages"] += 1
        if self.awaits_state:
            self.replayed += 1
            self.replayed_bytes += size
        if n != self.n + 1:
            self.books.lose(f"{self.name}: direct message {n} after {self.n}") if n > self.n else \
                self.books.double(f"{self.name}: direct message {n} after {self.n}")
        self.n = n
        received = self.books.directs[self.user]
        if message_id in received and received[message_id] is not self:
            # Sent in the turn in which the connection of the earlier page ended, or to a socket that was blocked: the server does
            # not know that it was written.
            self.books.counts["direct messages that a newer page received again"] += 1
        elif message_id in self.unplaced:
            # Its connection ended before the client had a position, without which it cannot say what it has received.
            self.books.counts["direct messages again before the first position"] += 1
        elif message_id in received:
            self.books.double(f"{self.name}: direct message {message_id} twice")
        received[message_id] = self
        if self.segment is None:
            self.unplaced.add(message_id)

    # ---- what the client sends ----

    def requested(self, ref, message_id, kind, to, now):
        """A request with this ref was given to the connection, perhaps not for the first time."""
        self.refs[ref] = message_id
        self.books.requests.setdefault(message_id, Request(kind, self.lobby, self.user, to, now))

    def settled(self, message_id, outcome):
        """`outcome`: `acked`, `refused`, `done` (by welcome), `unknown`, or `unsent`."""
        request = self.books.requests[message_id]
        if request.outcome:
            self.books.double(f"{self.name}: {message_id} is settled twice: {request.outcome}, then {outcome}")
        request.outcome = outcome
        self.books.counts[outcome] += 1

    def end(self, now):
        """The client gives up this session, and does not come back to it."""
        self.is_active = False
        self.books.broken(self.user, now)


class Request:
    def __init__(self, kind, lobby, user, to, now):
        self.kind, self.lobby, self.user, self.to, self.sent_at = kind, lobby, user, to, now
        self.outcome = None


def brief(message):
    return " ".join(str(message[key]) for key in ("type", "seq", "n", "ref") if key in message)


def id_of(data):
    return data["id"] if isinstance(data, dict) else data


class Books:
    """The books of all members of all lobbies. The limits are those of the server."""

    def __init__(self, history_frames, history_bytes, direct_frames, direct_bytes):
        self.history_frames, self.history_bytes = history_frames, history_bytes
        self.direct_frames, self.direct_bytes = direct_frames, direct_bytes
        self.sessions = []
        self.by_user = collections.defaultdict(list)    # the same, by user
        self.requests = {}                  # by id
        self.directs = collections.defaultdict(dict)    # by user: {id: book of the session}
        self.breaks = collections.defaultdict(list)     # by user: when a direct message may have been lost
        self.gaps = []
        self.reasons = collections.Counter()
        self.counts = collections.Counter()
        self.tolerated = set()              # codes of errors that messages without a `ref` may get
        self.grace = None                   # seconds for which the server must remember a session without a connection
        self.holders = {}                   # by user: book of the session that was welcome last
        self.directs_for_one_again = 2000   # of so many direct messages, one may be received again by a newer page
        self.end_lag = 0.0                  # seconds until the server knows that a page is gone, when it has a new one already
        self.unused = set()                 # codes of errors that do not use up the number of the request
        self.lost = self.doubled = 0
        self.problems = []

    def has_all_effects(self):
        is_long = self.counts["resumes"] >= RESUMES_WITH_DONE
        return all(self.counts[name] for name in (*EFFECTS, *(["done"] if is_long else [])))

    def problem(self, text):
        self.problems.append(text)
        if len(self.problems) <= 20:
            print(f"PROBLEM {text}", flush=True)

    def watch_loop(self):
        """What a client or a task of the rig reports to the event loop is a problem."""
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.problem(f"{context['message']}: {context.get('exception')!r}"))

    def lose(self, text, number=1):
        self.lost += number
        self.problem(f"lost: {text}")

    def double(self, text):
        self.doubled += 1
        self.problem(f"doubled: {text}")

    def broken(self, user, now):
        self.breaks[user].append(now)

    # ---- at the end ----

    def check(self):
        logs = self.sequences()
        for session in self.sessions:
            for segment in session.segments:
                self.check_complete(segment, logs[session.lobby, segment.epoch])
        places = collections.defaultdict(list)          # by id: where it is in a sequence
        for key, log in logs.items():
            for seq, (entry, _) in log.items():
                if entry[0] == "message":
                    places[entry[2]].append((*key, seq))
        for message_id, where in places.items():
            if len(where) > 1:
                self.double(f"{message_id} has several numbers: {where}")
        self.check_requests(places)
        self.check_reasons(logs)
        for text in self.differences():
            self.problem(text)

    def sequences(self):
        """Merges what the members of each lobby have received. By lobby and epoch: {seq: (entry, bytes)}."""
        logs = collections.defaultdict(dict)
        for session in self.sessions:
            for segment in session.segments:
                log = logs[session.lobby, segment.epoch]
                for seq, (entry, size) in segment.frames.items():
                    if entry[0] == "ack":
                        if entry[1] not in session.refs:
                            session.problem(f"seq {seq} is an ack of the unknown ref {entry[1]!r}")
                            continue
                        # Its frame is that of the others; its own ack is shorter.
                        entry, size = ("message", session.user, session.refs[entry[1]]), 0
                    known = log.get(seq)
                    if known and known[0] != entry:
                        session.problem(f"seq {seq} is {entry}, but for others {known[0]}")
                    log[seq] = (entry, max(size, known[1] if known else 0))
        return logs

    def check_complete(self, segment, log):
        session, ids = segment.book, None
        excused = [range(first, last + 1) for first, last in segment.gaps]
        missing = []
        for seq in range(segment.start + 1, segment.position + 1):
            if seq in segment.frames or any(seq in gap for gap in excused):
                continue
            entry = log.get(seq, (None,))[0]
            if entry and entry[0] == "message" and entry[2].startswith(f"{session.name}:quiet:"):
                continue                    # its own message without a ref
            missing.append((seq, entry))
        if missing:
            around = [text for position, text in session.starts if position < missing[-1][0]][-2:]
            around += [text for position, text in session.starts if position >= missing[-1][0]][:1]
            self.lose(f"{session.name} of {session.lobby} misses {len(missing)} of {segment.start + 1} to {segment.position}, "
                      f"the first: {missing[:3]}; {around}", len(missing))

    def check_requests(self, places):
        again = self.counts["direct messages that a newer page received again"]
        if again > 3 + self.counts["direct messages"] / self.directs_for_one_again:
            self.problem(f"newer pages received {again} direct messages again")
        unknown = 0
        for message_id, request in self.requests.items():
            number = len(places[message_id])
            is_direct = request.kind == "direct"
            if request.outcome is None:
                self.lose(f"{message_id} was never settled")
            elif request.outcome == "refused" and (number or message_id in self.directs[request.to]):
                self.problem(f"{message_id} was refused, and executed")
            elif request.outcome == "unsent" and number:
                self.problem(f"{message_id} was executed before it was sent")
            elif request.outcome in ("acked", "done"):
                if is_direct and message_id not in self.directs[request.to]:
                    if any(when >= request.sent_at for when in self.breaks[request.to]):
                        self.counts["direct messages to sessions that ended"] += 1
                    elif any(when + self.end_lag >= request.sent_at for when in self.breaks[request.to]):
                        unknown += 1
                    else:
                        self.lose(f"the direct message {message_id} to {request.to}: {request.outcome}")
                elif not is_direct and not number:
                    self.lose(f"{message_id}: {request.outcome}, but no member received it")

        self.counts["direct messages to sessions of which the server did not know yet that they had ended"] = unknown
        if unknown > FEW_UNKNOWN_ENDS + self.counts["direct messages"] * MAX_UNKNOWN_ENDS:
            self.lose(f"{unknown} direct messages to sessions that had ended", unknown)

    def check_reasons(self, logs):
        """Each `recovered: false` has a reason that the books can confirm."""
        for session, epoch, position, seq, lost, differs, number in self.gaps:
            log = logs[session.lobby, epoch]
            # 64 bytes for a frame that only its sender knows; and what the server may count beside the text.
            size = sum(log.get(s, (None, 64))[1] + 64 for s in range(position + 1, seq + 1))
            if differs:
                reason = "another epoch"
            elif seq - position > self.history_frames:
                reason = "more frames than the history"
            elif size > self.history_bytes:
                reason = "more bytes than the history"
            elif lost:
                reason = "lost direct messages"
            elif session.is_page and number:
                # A browser answers pings for a page that is frozen, and the server takes its direct messages for read.
                reason = "direct messages that only the browser received"
            else:
                session.problem(f"not recovered without a reason: position {position} of {seq}, {size} bytes, {number} direct messages")
                reason = "no reason"
            self.reasons[reason] += 1

    def differences(self):
        """At the end all present members agree about the members and the sequence. Returns what differs."""
        found = []
        by_lobby = collections.defaultdict(list)
        for session in self.sessions:
            if session.is_active:
                by_lobby[session.lobby].append(session)
        for lobby, sessions in by_lobby.items():
            truth = {session.conn: (session.user, False) for session in sessions}
            ends = {(session.segment.epoch, session.segment.position) if session.segment else None for session in sessions}
            if len(ends) != 1:
                found.append(f"the members of {lobby} end at different positions: {sorted(map(str, ends))}")
            for session in sessions:
                if session.view != truth:
                    found.append(f"{session.name}: its list at the end is {session.view}, the truth is {truth}")
        return found
