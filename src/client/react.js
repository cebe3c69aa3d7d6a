// A React hook: all components with the same address are one member. It leaves when none of them is shown.
import { useEffect, useSyncExternalStore } from "react";
import { Lobby } from "./lobby.js";

const seats = new Map();

/** Returns `{ lobby, state, members }`, and renders again when state or members change. */
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
    view = { lobby, state: lobby.state, members: [...lobby.members.values()] };
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
  lobby.on("connection", update);
  lobby.on("members", update);
  update();
  seats.set(key, seat);
  return seat;
}
