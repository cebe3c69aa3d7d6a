"""Repeats a measurement whose bound a busy machine may exceed. Standard library only."""

ATTEMPTS = 3


class Attempt:
    """One measurement. The next one follows only if a figure of this one exceeds its bound."""

    def __init__(self):
        self.figures, self.exceeded = [], []

    def check(self, is_within, text):
        """Compares a figure with its bound: `text` names both. What a busy machine cannot explain is checked elsewhere, once."""
        self.figures.append(text)
        if not is_within:
            self.exceeded.append(text)


def attempts(count=ATTEMPTS):
    """Yields attempts until all figures of one are within their bounds. Raises AssertionError after the last.

        for attempt in attempts():
            longest = measure()
            attempt.check(longest < 50, f"{longest} ms")

    A server that is too slow exceeds its bound each time, another program on the same cores hardly ever does.
    """
    for number in range(1, count + 1):
        attempt = Attempt()
        yield attempt
        assert attempt.figures, "a measurement that is compared with no bound cannot fail"
        if not attempt.exceeded:
            return
        print(f"       measurement {number} of {count} exceeds its bound: {'; '.join(attempt.exceeded)}", flush=True)
    raise AssertionError(f"each of {count} measurements exceeds its bound, the last: {'; '.join(attempt.exceeded)}")
