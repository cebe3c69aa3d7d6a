/** Types of an application's messages: the key is the `type`, the value its other fields. */
export type Messages = object;

/** Idle until `connect()`, closed for good. */
export type State = "idle" | "connecting" | "open" | "waiting" | "closed";

/** Why a member left. `unknown`: it is missing in the list after a reconnect. */
export type LeaveReason = "left" | "dropped" | "timeout" | "kicked" | "replaced" | "slow" | "shutdown" | "unknown";

/** A seat of a lobby. The object stays the same as long as the seat exists. */
export interface Member {
  readonly user: string;
  /** Names the seat. */
  readonly conn: string;
  /** Its connection is lost, and its seat is kept. */
  readonly away: boolean;
}

/** What is known of a message beside its data. */
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
}

/** Events that are not messages with a type, with the values that their listeners get. */
export interface Events {
  join: [who: Member];
  leave: [who: Member, reason: LeaveReason];
  /** The connection of a member is lost. */
  away: [who: Member];
  back: [who: Member];
  /** `members` has changed. */
  members: [];
  /** Messages are missing: load everything anew. */
  gap: [];
  connection: [state: State, why?: Closed];
  /** The server has refused a message of `send`. */
  error: [error: LobbyError];
  /** A message without a type. */
  message: [data: unknown, meta: Meta];
  /** A direct message without a type. */
  direct: [data: unknown, meta: Meta];
  binary: [data: ArrayBuffer];
}

/** Fields of messages that the client or the server sets. */
type Fields<T> = T extends readonly unknown[] ? T : T extends object ? T & { type?: never; ref?: never } : T;
/** What arrives: what is no object is sent as `data`. */
type Heard<T> = T extends readonly unknown[] ? { data: T } : T extends object ? T : { data: T };
type Sent<T, More extends unknown[]> = undefined extends T ? [payload?: Fields<T>, ...more: More] : [payload: Fields<T>, ...more: More];
type Type<S> = Exclude<keyof S & string, keyof Events | "broadcast">;

export interface Options {
  /** Returns a token for each attempt to connect. */
  token?: string | (() => string | Promise<string>);
  /** Aborted: leaves the lobby. */
  signal?: AbortSignal;
  /** Under which a tab remembers its seat while it reloads. Default: the address. Distinguishes clients of one page in one lobby. */
  key?: string;
  /** For programs without this global. The fallback needs the globals `EventSource` and `fetch`. */
  WebSocket?: unknown;
}

/** What a promise rejects with. */
export class LobbyError extends Error {
  constructor(code: string, message?: string, details?: object);
  /**
   * The reason word of a close (`kicked`), the code of an `error` of the server (`user_not_found`), or one of the client: `timeout`,
   * `unknown` (the seat is gone, and the request may have been executed), `refused` (not executed; the reason was lost), `closed`,
   * `queue_full`, `too_large`, `overflow` (of an iterator that does not read).
   */
  readonly code: string;
  /** The other fields of the `error`, or code and reason of the close. */
  readonly details: { readonly [name: string]: unknown };
}

/** Joins a lobby. Its members are known when the promise resolves. Rejects if the lobby refuses. */
export function join<S extends Messages = Record<string, any>>(url: string | URL, options?: Options): Promise<Lobby<S>>;

/** A member of a lobby. It comes back to its seat when its connection is lost. */
export class Lobby<S extends Messages = Record<string, any>> {
  /** Does not connect. A relative `url` is one of the page. */
  constructor(url: string | URL, options?: Options);
  readonly url: string | URL;
  /** Read anew for each attempt and request. */
  options: Options;
  readonly state: State;
  /** Resolves when the members are known; rejects with the reason word if the lobby is closed before. */
  readonly ready: Promise<this>;
  /** By `conn`, in the order in which they joined. */
  readonly members: ReadonlyMap<string, Member>;
  /** Number of members, also in a lobby that is too large for a list. */
  readonly count: number;
  /** Exists from `ready` on. */
  readonly me: Member;
  /** Of the current or last connection. Exists from `ready` on. */
  readonly welcome: Welcome;
  /** Shortest recent round trip in milliseconds. */
  readonly latency: number | null;
  /** The server's time in milliseconds since the Unix epoch. */
  now(): number;

  /** Starts to connect. Does nothing if it has already. */
  connect(): this;
  /** Gives the seat up. */
  leave(): void;
  [Symbol.dispose](): void;

  /** Sends a message that is executed exactly once. Resolves with its `ack`, or rejects with a `LobbyError`. */
  request(type: "broadcast", payload: { data: unknown }, options?: { timeout?: number }): Promise<Ack>;
  request(type: "direct", payload: { to: string; data: unknown }, options?: { timeout?: number }): Promise<Ack>;
  request<K extends Type<S>>(type: K, ...args: Sent<S[K], [options?: { timeout?: number }]>): Promise<Ack>;
  /** Sends a message now or never. Returns whether it was sent: `false` while there is no connection. */
  send(type: "broadcast", payload: { data: unknown }): boolean;
  send(type: "direct", payload: { to: string; data: unknown }): boolean;
  send<K extends Type<S>>(type: K, ...args: Sent<S[K], []>): boolean;
  /** The same for a binary message. Event streams carry none. */
  bytes(data: ArrayBuffer | ArrayBufferView): boolean;

  /** Calls `listener` for each event, or each message of a type. Returns a function that removes it. */
  on<K extends keyof Events>(name: K, listener: (...values: Events[K]) => void, options?: ListenerOptions): () => void;
  on<K extends Type<S>>(type: K, listener: (data: Heard<S[K]>, meta: Meta) => void, options?: ListenerOptions): () => void;
  /** The same for one event. */
  once<K extends keyof Events>(name: K, listener: (...values: Events[K]) => void, options?: { signal?: AbortSignal }): () => void;
  once<K extends Type<S>>(type: K, listener: (data: Heard<S[K]>, meta: Meta) => void, options?: { signal?: AbortSignal }): () => void;

  /** Each message from now on, until the lobby is closed. Throws `overflow` if 1,000 messages were not read. */
  [Symbol.asyncIterator](): AsyncGenerator<[data: unknown, meta: Meta], void, void>;
}

export interface ListenerOptions {
  once?: boolean;
  signal?: AbortSignal;
}
