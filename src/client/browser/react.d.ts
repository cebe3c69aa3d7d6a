import type { Lobby, Member, Messages, Options, Settings, State } from "./lobby.js";

/** All components with the same `url` share one lobby. It is left when none of them is shown. */
export function useLobby<S extends Messages = Record<string, any>, D extends object = Record<string, any>, P extends object = Record<string, any>>(
  url: string | URL,
  options?: Options,
): {
  readonly lobby: Lobby<S, D, P>;
  readonly state: State;
  readonly members: readonly Member<P>[];
  /** Empty without lobby control, as the following. */
  readonly data: Readonly<Partial<D>>;
  readonly host: Member<P> | null;
  readonly settings: Partial<Settings>;
  readonly countdown: number | null;
};
