import type { Lobby, Member, Messages, Options, State } from "./lobby.js";

/** All components with the same `url` share one lobby. It is left when none of them is shown. */
export function useLobby<S extends Messages = Record<string, any>>(
  url: string | URL,
  options?: Options,
): { readonly lobby: Lobby<S>; readonly state: State; readonly members: readonly Member[] };
