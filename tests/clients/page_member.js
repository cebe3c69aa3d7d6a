// What the member pages of session_pages.py have in common: they keep a list of what they send and receive, and talk at random.
// session_pages.py takes the list through the DevTools protocol, and enters it in the books.

export const settings = Object.fromEntries(new URLSearchParams(location.search));
const { user, seed, every } = settings;

let state = Number(seed);
const random = () => (state = (state * 48271) % 0x7fffffff) / 0x7fffffff;
// Short waits before the client reconnects: the test wants many resumes.
Math.random = () => random() * 0.05;

const load = Math.floor(performance.timeOrigin);
let [events, number, unsettled, isOver, isTalking] = [[], 0, 0, false, true];

/** Adds an event to the list. */
export const note = (...event) => isOver || events.push([Date.now(), ...event]);

/** Tells what is known of a request that was rejected with this code. */
export const outcome = (code) => (['unknown', 'closed', 'timeout'].includes(code) ? 'unknown' : 'refused');

/**
 * Sends messages from time to time. `others` returns the other users of the lobby, or null while nothing can be sent. `send` is
 * called with a kind, a receiver or null, and the data; it returns a promise of the `ref` of the request and its outcome.
 */
export function talk(others, send) {
  const users = isTalking ? others() : null;
  if (users) {
    const id = `${user}.${load}:${number += 1}`;
    const to = random() < 0.3 && users.length ? users[Math.floor(random() * users.length)] : null;
    const data = { id, padding: 'x'.repeat(random() < 0.2 ? 1000 : 10) };
    const kind = to ? 'direct' : random() < 0.3 ? 'move' : 'broadcast';
    note('asked', id, kind, to);
    unsettled += 1;
    send(kind, to, data).then(([ref, result]) => note('settled', id, ref ?? null, result)).finally(() => { unsettled -= 1; });
  }
  setTimeout(talk, random() * 2000 * every, others, send);
}

// For session_pages.py.
window.take = () => events.splice(0);
window.end = () => {
  const last = events.splice(0);
  isOver = true;
  return last;
};
window.quiet = () => { isTalking = false; };
window.unsettled = () => unsettled;
