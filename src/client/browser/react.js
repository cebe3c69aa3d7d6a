// A React hook: all components with the same address are one member. It leaves when none of them is shown.
import { useEffect, useSyncExternalStore } from "react";
import { Lobby } from "./lobby.js";

const seats = new Map();

/** Returns `{ lobby, state, members, data, host, settings, countdown }`, and renders again when one of them changes. */
export function useLobby(url, options) {
  const key = String(url);
  const seat = seats.get(key) ?? seatAt(key, options);
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
        if (seats.get(key) === seat) seats.delete(key);
        lobby.leave();
      });
    };
  };
  const seat = { lobby, subscribe, view: () => view };
  for (const name of ["connection", "members", "data", "host", "settings", "countdown", "start"]) lobby.on(name, update);
  update();
  seats.set(key, seat);
  return seat;
}
