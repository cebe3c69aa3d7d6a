// A React hook: all components with the same address are one member. It leaves when none of them is shown.
import { useEffect, useRef, useSyncExternalStore } from "react";
import { Lobby } from "./lobby.js";

const seats = new Map();

/** Returns `{ lobby, state, members, data, host, settings, countdown }`, and renders again when one of them changes. */
export function useLobby(url, options) {
  const key = String(url);
  const own = useRef({});
  // A component keeps a lobby that was closed, so that it can show why. One that is mounted later joins anew.
  if (own.current.key !== key || own.current.isReleased) own.current = seats.get(key) ?? seatAt(key, options);
  const seat = own.current;
  useEffect(() => void (seat.lobby.options = { ...options }));
  return useSyncExternalStore(seat.subscribe, seat.view, seat.view);
}

function seatAt(key, options) {
  const lobby = new Lobby(key, options);
  const changes = new Set();
  let view;
  const update = () => {
    const { state, data, host, settings, countdown } = lobby;
    view = { lobby, state, members: [...lobby.members.values()], data, host, settings, countdown };
    for (const change of changes) change();
  };
  const subscribe = (change) => {
    changes.add(change);
    lobby.connect();
    return () => {
      changes.delete(change);
      // StrictMode mounts again at once.
      setTimeout(() => {
        if (changes.size) return;
        seat.isReleased = true;
        forget();
        lobby.leave();
      });
    };
  };
  const seat = { key, lobby, subscribe, view: () => view };
  const forget = () => seats.get(key) === seat && seats.delete(key);
  lobby.on("connection", (state) => state === "closed" && forget());
  for (const name of ["connection", "members", "data", "host", "settings", "countdown", "start"]) lobby.on(name, update);
  update();
  // A server renders for many users, and nothing removes their lobbies.
  if (globalThis.window) seats.set(key, seat);
  return seat;
}
