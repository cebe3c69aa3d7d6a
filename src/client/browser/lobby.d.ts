/** Types of an application's messages: the key is the `type`, the value its other fields. */
export type Messages = object;

/** Idle until `connect()`, closed for good. */
export type State = "idle" | "connecting" | "open" | "waiting" | "closed";

/** Why a member left. `unknown`: it is missing in the list after a reconnect. */
export type LeaveReason = "left" | "dropped" | "timeout" | "kicked" | "replaced" | "slow" | "shutdown" | "unknown";

/** A seat of a lobby. The object stays the same as long as the seat exists. `P`: its data. */
export interface Member<P extends object = Record<string, any>> {
  readonly user: string;
  /** Names the seat. */
  readonly conn: string;
  /** Its connection is lost, and its seat is kept. */
  readonly away: boolean;
  /** Whether it is the host: lobby control is on, and this member may configure the lobby and kick others. */
  readonly host: boolean;
  /** Data that was stored with `set`. A new object after each change. */
  readonly data: Readonly<Partial<P>>;
  /** Changes the own data, or as the host those of another member. `null` deletes a key. */
  set(data: Changes<P>, options?: SetOptions): Promise<Ack>;
}

/** Values of some keys. `null`: the key is deleted. */
export type Changes<T extends object> = { readonly [K in keyof T]?: T[K] | null };

export interface SetOptions extends RequestOptions {
  /** Only if none of the keys has changed since this `seq`. Otherwise the promise rejects with `conflict`. */
  if?: number;
}

export interface RequestOptions {
  /** Milliseconds; 10,000 by default. `Infinity`: none. */
  timeout?: number;
}

/** What members know of a lobby's settings. */
export interface Settings {
  /** Greatest number of members; `null`: the server has no bound either. */
  readonly max: number | null;
  /** Nobody can join. */
  readonly locked: boolean;
  /** Whether the lobby is in the list, while it can be joined. */
  readonly listed: boolean;
  readonly name: string | null;
  /** At most 4. */
  readonly tags: { readonly [name: string]: string };
  readonly has_password: boolean;
  /** Who may change the lobby's data. */
  readonly write: "host" | "all";
  /** Greatest number of watchers. */
  readonly watchers: number;
  /** When the game starts by itself: `min` members, all of them present and, with `ready`, with `data.ready` true. */
  readonly start: { readonly min: number; readonly ready: boolean; readonly countdown_ms: number } | null;
  /** How long the lobby is kept without members. */
  readonly empty_ttl_ms: number;
}

/** Settings to change. `null`: back to the default. */
export type SettingsChange = { readonly [K in keyof Omit<Settings, "has_password" | "start">]?: Settings[K] | null } & {
  readonly password?: string | null;
  readonly start?: { readonly min?: number; readonly ready?: boolean; readonly countdown_ms?: number } | null;
};

/** Origin of a change. */
export interface Change {
  /** User id; `null`: the application, an operator or the server. */
  readonly by: string | null;
  readonly seq: number;
}

/** A lobby that can be joined. */
export interface ListedLobby {
  readonly code: string;
  readonly name: string | null;
  readonly tags: { readonly [name: string]: string };
  /** Number of members. */
  readonly members: number;
  readonly max: number | null;
  readonly has_password: boolean;
}

/** Which lobbies to list. */
export interface Filters {
  /** Pool of quick joins. */
  pool?: string;
  tags?: { readonly [name: string]: string };
}

/** The lobbies that can be joined, live. */
export interface LobbyList {
  readonly state: State;
  /** As of a `Lobby`. */
  readonly why: Closed | null;
  /** Resolves with the first list. */
  readonly ready: Promise<this>;
  /** At most 100, the oldest first. A new array after each change. */
  readonly lobbies: readonly ListedLobby[];
  /** There are others that match. */
  readonly more: boolean;
  on(name: "lobbies", listener: (lobbies: readonly ListedLobby[], more: boolean) => void, options?: ListenerOptions): () => void;
  on(name: "connection", listener: (state: State, why?: Closed) => void, options?: ListenerOptions): () => void;
  /** Closes the list. */
  leave(): void;
  [Symbol.dispose](): void;
  /** The newest list, now and after changes, until it is closed. */
  [Symbol.asyncIterator](): AsyncGenerator<[lobbies: readonly ListedLobby[], more: boolean], void, void>;
}

/** Metadata of a message. */
export interface Meta {
  /** User id of the sender; `null`: the operator or the application. */
  readonly from: string | null;
  /** `null`: the message is no object with a type. */
  readonly type: string | null;
  /** Number in the lobby. Direct and volatile messages have none. */
  readonly seq?: number;
  /** Whether it was sent to this user only. */
  readonly isDirect: boolean;
}

/** Why a connection or the lobby was closed. */
export interface Closed {
  readonly code: number;
  /** The reason word. */
  readonly reason: string;
  /** Milliseconds until the next attempt, if there is one. */
  readonly wait?: number;
}

/** The answer to a request. It is empty if it was lost, and the server has said after the reconnect that the request was executed. */
export interface Ack {
  readonly seq?: number;
  readonly delivered?: number;
  readonly dropped?: number;
  readonly repeated?: true;
}

/** The first message on every connection. */
export interface Welcome {
  readonly protocol: number;
  readonly conn: string;
  readonly user: string;
  readonly lobby: string;
  readonly epoch: number;
  readonly seq: number;
  readonly resumed: boolean;
  readonly recovered: boolean;
  readonly server_time: number;
  readonly limits: { readonly max_message_bytes: number; readonly messages_per_second: number | null };
  readonly ping: { readonly interval_ms: number; readonly timeout_ms: number };
  readonly tick?: { readonly hz: number; readonly tick: number };
  readonly away_ms?: number;
  /** Lobby control is on: data, host and settings. */
  readonly control?: true;
}

/** Events that are not messages with a type, with the values that their listeners get. */
export interface Events<P extends object = Record<string, any>> {
  join: [who: Member<P>];
  leave: [who: Member<P>, reason: LeaveReason];
  /** The connection of a member is lost. */
  away: [who: Member<P>];
  back: [who: Member<P>];
  /** `members` has changed. */
  members: [];
  /** Messages are missing: load everything anew. */
  gap: [];
  connection: [state: State, why?: Closed];
  /** The server has refused a message of `send`. */
  error: [error: LobbyError];
  /** A message without a type, or with the name of an event. */
  message: [data: unknown, meta: Meta];
  /** A direct message without a type, or with the name of an event. */
  direct: [data: unknown, meta: Meta];
  binary: [data: ArrayBuffer];
}

/** Events of lobby control. Without it, and in types of messages that have such a name, these names are the application's. */
export interface ControlEvents<D extends object = Record<string, any>, P extends object = Record<string, any>> {
  /** Data of the lobby (`who` is `null`) or of a member have changed: the keys that differ, with `null` for one that is deleted. */
  data: [changes: Changes<D>, who: null, about: Change] | [changes: Changes<P>, who: Member<P>, about: Change];
  host: [who: Member<P> | null];
  /** The settings that differ. */
  settings: [changes: Partial<Settings>, about: Change];
  /** When the game starts, in milliseconds since the Unix epoch; `null`: not now. */
  countdown: [at: number | null];
  /** The game starts, with these seats: none in a lobby that is too large for a list. */
  start: [seats: readonly { readonly user: string; readonly conn: string }[]];
}

/** Fields of messages that the client or the server sets. */
type Fields<T> = T extends readonly unknown[] ? T : T extends object ? T & { type?: never; ref?: never } : T;
/** What arrives: what is no object is sent as `data`. */
type Heard<T> = T extends readonly unknown[] ? { data: T } : T extends object ? T : { data: T };
type Sent<T, More extends unknown[]> = undefined extends T ? [payload?: Fields<T>, ...more: More] : [payload: Fields<T>, ...more: More];
type Type<S> = Exclude<keyof S & string, keyof Events | "broadcast">;
/** Names of control events that are no types of messages. */
type ControlEvent<S> = string extends keyof S ? keyof ControlEvents : Exclude<keyof ControlEvents, keyof S>;
/** Types that are sent and heard. Without types of messages any, except for the names of control events. */
type HeardType<S> = Exclude<Type<S>, ControlEvent<S>>;

export interface Options {
  /** A function returns a token for each attempt to connect. If it throws, or returns nothing, the attempt has failed. */
  token?: string | (() => Token | Promise<Token>);
  /** Aborted: leaves the lobby. */
  signal?: AbortSignal;
  /** Under which a tab remembers its seat while it reloads. Default: the address. Distinguishes clients of one page in one lobby. */
  key?: string;
  /** For programs without this global. The fallback needs the globals `EventSource` and `fetch`. */
  WebSocket?: unknown;
}

/** Error with which a promise rejects. */
export class LobbyError extends Error {
  constructor(code: string, details?: object);
  /**
   * The reason word of a close (`kicked`), the code of an `error` of the server (`user_not_found`), or one of the client: `timeout`,
   * `unknown` (the seat is gone, and the request may have been executed), `refused` (not executed; the reason was lost), `closed`,
   * `queue_full` (64 requests or 64 KiB are kept; a single request may be larger), `too_large` (for the server), `overflow` (of an
   * iterator that does not read), `no_control` (the server has lobby control off), `bad_url`, `bad_lobby_code` (the address can never work).
   */
  readonly code: string;
  /** The other fields of the `error`, or code and reason of the close. `conflict`: newest change of the keys, and their values. */
  readonly details: { readonly seq?: number; readonly data?: { readonly [key: string]: any }; readonly [name: string]: unknown };
}

/** Joins a lobby. Its members and its state are known when the promise resolves. Rejects if the lobby refuses. */
export function join<S extends Messages = Record<string, any>, D extends object = Record<string, any>, P extends object = Record<string, any>>(
  url: string | URL,
  options?: Options,
): Promise<Lobby<S, D, P>>;

/**
 * A member of a lobby. It comes back to its seat when its connection is lost. `S`: messages by type; `D`: data of the lobby; `P`: data of a
 * member. Without lobby control data and settings are empty, and its methods reject with `no_control`.
 */
export class Lobby<S extends Messages = Record<string, any>, D extends object = Record<string, any>, P extends object = Record<string, any>> {
  /** A live list of the lobbies that can be joined. `url`: of `/ws/~lobbies`. Throws if the address can never work. */
  static list(url: string | URL, options?: Filters & Options): LobbyList;
  /** The list once. `after`: the `next` of the answer before; `next` is `null` at the end. */
  static find(url: string | URL, filters?: Filters & { after?: string | null }): Promise<{ lobbies: ListedLobby[]; next: string | null }>;

  /** Does not connect. A relative `url` is one of the page. */
  constructor(url: string | URL, options?: Options);
  readonly url: string | URL;
  /** Read anew for each attempt and request. */
  options: Options;
  readonly state: State;
  /** Why it waits for the next attempt, or is closed: as in the last event `connection`. `null` in other states. */
  readonly why: Closed | null;
  /** Resolves when the members and the state are known; rejects with the reason word if the lobby is closed before. */
  readonly ready: Promise<this>;
  /** By `conn`, in the order in which they joined. */
  readonly members: ReadonlyMap<string, Member<P>>;
  /** Number of members, also in a lobby that is too large for a list. */
  readonly count: number;
  /** Exists from `ready` on, except in a watcher (`?role=watch`), where it is `null`. */
  readonly me: Member<P>;
  /** Of the current or last connection. Exists from `ready` on. */
  readonly welcome: Welcome;
  /** Code of the lobby, with which others join: `/ws/{code}`. Exists from `ready` on. */
  readonly code: string;
  /** Number of the last message that was read, for `if` of `set`. */
  readonly seq: number;
  /** Shortest recent round trip in milliseconds. */
  readonly latency: number | null;
  /** The server's time in milliseconds since the Unix epoch. */
  now(): number;

  /** Data of the lobby. A new object after each change. */
  readonly data: Readonly<Partial<D>>;
  readonly host: Member<P> | null;
  readonly settings: Partial<Settings>;
  /** Number of watchers at the last list: when this client joined, came back, or sent `presence`. */
  readonly watchers: number;
  /** When the game starts, in milliseconds since the Unix epoch, on the clock of `now()`. */
  readonly countdown: number | null;

  /** Changes the lobby's data, as the host or everybody, by the setting `write`. `null` deletes a key. */
  set(data: Changes<D>, options?: SetOptions & { of?: undefined }): Promise<Ack>;
  /** Changes the data of a member, or of the seat with this `conn`. */
  set(data: Changes<P>, options: SetOptions & { of: Member<P> | string }): Promise<Ack>;
  /** As the host: changes some settings. */
  configure(settings: SettingsChange, options?: RequestOptions): Promise<Ack>;
  /** As the host: ends all seats of a user, a member or its id. With `ban` the user cannot come back. */
  kick(who: Member<P> | string, options?: RequestOptions & { ban?: boolean }): Promise<Ack>;
  /** As the host. */
  unban(user: string, options?: RequestOptions): Promise<Ack>;
  /** As the host: makes another member the host. */
  handOver(who: Member<P> | string, options?: RequestOptions): Promise<Ack>;

  /** Starts to connect. Does nothing if it has already. */
  connect(): this;
  /** Gives the seat up. No listener is called any more, except for the state `closed`. */
  leave(): void;
  [Symbol.dispose](): void;

  /**
   * Sends a request. The server executes it at most once, also if the connection is lost meanwhile. Resolves with its `ack`, or
   * rejects with a `LobbyError`.
   */
  request(type: "broadcast", payload: { data: unknown }, options?: RequestOptions): Promise<Ack>;
  request(type: "direct", payload: { to: string; data: unknown }, options?: RequestOptions): Promise<Ack>;
  request<K extends Type<S>>(type: K, ...args: Sent<S[K], [options?: RequestOptions]>): Promise<Ack>;
  /** Sends a message now or never. Returns whether it was sent: `false` while there is no connection. Throws `too_large`. */
  /** With `volatile` the message has no number: it is not kept for members that come back, and they do not miss it. */
  send(type: "broadcast", payload: { data: unknown; volatile?: boolean }): boolean;
  send(type: "direct", payload: { to: string; data: unknown }): boolean;
  send<K extends Type<S>>(type: K, ...args: Sent<S[K], []>): boolean;
  /** The same for a binary message. Event streams carry none. */
  bytes(data: ArrayBuffer | ArrayBufferView): boolean;

  /** Calls `listener` for each event, or each message of a type. Returns a function that removes it. */
  on<K extends keyof Events>(name: K, listener: (...values: Events<P>[K]) => void, options?: ListenerOptions): () => void;
  on<K extends ControlEvent<S>>(name: K, listener: (...values: ControlEvents<D, P>[K]) => void, options?: ListenerOptions): () => void;
  on<K extends HeardType<S>>(type: K, listener: (data: Heard<S[K]>, meta: Meta) => void, options?: ListenerOptions): () => void;
  /** The same for one event. */
  once<K extends keyof Events>(name: K, listener: (...values: Events<P>[K]) => void, options?: { signal?: AbortSignal }): () => void;
  once<K extends ControlEvent<S>>(name: K, listener: (...values: ControlEvents<D, P>[K]) => void, options?: { signal?: AbortSignal }): () => void;
  once<K extends HeardType<S>>(type: K, listener: (data: Heard<S[K]>, meta: Meta) => void, options?: { signal?: AbortSignal }): () => void;

  /** Each message from now on, until the lobby is closed. Throws `overflow` if 1,000 messages were not read. */
  [Symbol.asyncIterator](): AsyncGenerator<[data: unknown, meta: Meta], void, void>;
}

export type Token = string | null | undefined;

export interface ListenerOptions {
  once?: boolean;
  signal?: AbortSignal;
}
