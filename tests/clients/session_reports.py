"""The books of a member that runs outside this process. It reports what it does and receives, and its reports are entered here."""

import asyncio
import time

from session_books import SessionBook


class Reports:
    """A base of members. A report is a list: milliseconds since the Unix epoch, its kind, and values.

    | kind | values |
    | --- | --- |
    | `open` | a new session begins; the one before has ended |
    | `receive` | a message as an object, and its length in bytes |
    | `asked` | id, kind (`broadcast`, `move`, `direct`) and receiver or null of a request that was made |
    | `settled` | id of a request, its `ref` or null, and the outcome: `acked`, `refused` or `unknown` |
    | `gap` | the client was told that messages are missing |
    | `state` | the state of the client; with `closed` the code and the reason |
    | `problem` | a text |

    `rig`, `lobby` and `user` are those of the member. `book` is that of its current session; `previous` that of a session whose name the
    next one passes as `was`.
    """

    book = previous = None

    def enter(self, at, kind, *values):
        now = at / 1000 - time.time() + asyncio.get_running_loop().time()
        book = self.book
        if kind == "open":
            if book and book.is_active:
                book.end(now)
            self.book = SessionBook(self.rig.books, self.lobby.name, self.user, self.previous, is_page=self.is_page)
            self.previous = None
        elif kind == "receive":
            book.receive(*values, now)
        elif kind == "asked":
            message_id, message_kind, to = values
            book.requested(None, message_id, message_kind, to, now)
        elif kind == "settled":
            message_id, ref, outcome = values
            book.refs[ref] = message_id
            book.settled(message_id, outcome)
        elif kind == "gap":
            self.rig.books.counts["gaps that pages were told"] += 1
        elif kind == "problem":
            self.rig.books.problem(f"{self.user}: {values[0]}")
        elif values[0] == "closed":
            self.rig.ends["{} {}".format(*values[1:])] += 1

    def give_up(self):
        """The member is gone, and with it its requests that are not settled."""
        requests = self.rig.books.requests
        for message_id in [key for key, request in requests.items() if request.user == self.user and request.outcome is None]:
            self.book.settled(message_id, "unknown")
        self.book.end(asyncio.get_running_loop().time())

    def has_joined(self):
        return self.book is not None and self.book.segment is not None

    def is_open(self):
        return self.has_joined()
