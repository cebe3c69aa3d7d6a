class_name Lobby
extends Node
## The client of lobbyd for Godot 4.2 or newer: a member of a lobby that comes back to its seat when
## its connection is lost.
##
## Add it to the tree, where it works in [method Node._process], also while the game is paused.
## Connect its signals and call [method join]. README.md describes the installation,
## src/guide/clients.md the API, and src/guide/protocol.md the messages.
## [codeblock]
## var lobby := Lobby.new()
##
## func _ready() -> void:
##     add_child(lobby)
##     lobby.message_received.connect(_on_message)
##     var joined := await lobby.join("wss://game.example/ws/chess", "token")
##     if joined.ok:
##         await lobby.request("move", {to = "e4"})
## [/codeblock]
## Integral numbers arrive as [int], others as [float]; both are doubles on the wire.

#     IDLE --join()--> CONNECTING --welcome, list--> OPEN --lost--> WAITING --time--> CONNECTING
#     each of them --leave(), or a close that says not to come back--> CLOSED --join()--> CONNECTING

## A message of a member, or of the application itself: then [code]meta.from[/code] is
## [code]null[/code]. [param type] is empty if it has none. [param data] is the message without
## [code]type[/code] and [code]ref[/code]. [code]meta[/code] has [code]from[/code], [code]seq[/code]
## and [code]is_direct[/code].
signal message_received(type: String, data: Variant, meta: Dictionary)
signal bytes_received(bytes: PackedByteArray)
## Members of the first list are not told.
signal member_joined(member: Member)
signal member_left(member: Member, reason: String)
signal member_away(member: Member)
signal member_back(member: Member)
signal members_changed
## Messages were missed: load the state anew. Nothing else has this meaning.
signal gap_detected
## [param why] has [code]code[/code], [code]reason[/code] and [code]wait[/code] in milliseconds, if
## a connection has ended.
signal state_changed(state: State, why: Dictionary)
## The server has refused a message of [method send].
signal send_refused(error: Result)

# With lobby control only.

## Data of [param member] have changed, or with [code]null[/code] those of the lobby.
## [code]meta[/code] has [code]by[/code] and [code]seq[/code]. [param changes] has the keys whose
## values differ; [code]null[/code]: the key is gone.
signal data_changed(changes: Dictionary, member: Member, meta: Dictionary)
signal settings_changed(changes: Dictionary, meta: Dictionary)
signal host_changed(member: Member)
## The game starts at that time in milliseconds since the Unix epoch, or with -1 not any more.
signal countdown_changed(at: int)
## The game starts with these seats, each with [code]user[/code] and [code]conn[/code].
signal started(seats: Array)

## The list of [method list] has changed.
signal lobbies_changed(lobbies: Array, more: bool)

enum State { IDLE, CONNECTING, OPEN, WAITING, CLOSED }

# Bytes of the requests that are kept, and those that a connection may buffer before volatile
# messages are dropped.
const MAX_BYTES := 65_536
const MAX_REQUESTS := 64
# For the `ref` of a request.
const REF_BYTES := 24
# The server allows 16 unanswered requests of a session.
const MAX_SENT := 16
const MAX_PACKETS := 4_096
# Fields of a goodbye.
const GOODBYE := {
	"code": TYPE_INT,
	"reason": TYPE_STRING,
	"url": TYPE_STRING,
	"reconnect": TYPE_BOOL,
	"retry_after_ms": TYPE_INT,
}
# Numbers below it are exact in a double.
const EXACT := 9_007_199_254_740_992.0

# On web exports WebSocketPeer gives up a connection with the code 3001, which gives the seat up,
# too. Without a code it is kept.
const KEEP_SEAT := """(() => {
	const close = WebSocket.prototype.close;
	if (close.keepsSeat) return;
	WebSocket.prototype.close = function (...values) {
		const isGivenUp = values[0] === 3001 && this.protocol === "lobby.v1.json";
		return close.apply(this, isGivenUp ? [] : values);
	};
	WebSocket.prototype.close.keepsSeat = true;
})()"""
const PAGE_EVENTS: Array[String] = ["pagehide", "pageshow", "online", "visibilitychange", "resume"]

# What `JSON.stringify` may have written that is no JSON.
static var _no_json := RegEx.create_from_string("[\\x01-\\x1f]|\\\\v")


## The outcome of a request.
class Result:
	extends RefCounted
	var ok: bool:
		get:
			return error.is_empty()
	## Empty, a code of the server's [code]error[/code], the reason word of a close, or a code of
	## this client.
	var error := ""
	## A text for developers.
	var message := ""
	## Those of the server's answer, such as [code]seq[/code].
	var fields: Dictionary = {}

	func _init(with_error := "", with_fields: Dictionary = {}) -> void:
		error = with_error
		fields = with_fields
		message = str(with_fields.get("message", with_error))


## A seat.
class Member:
	extends RefCounted
	var user := ""
	## Names the seat.
	var conn := ""
	var away := false
	## Empty without lobby control. A new dictionary after each change.
	var data: Dictionary = {}
	var is_host: bool:
		get:
			return is_instance_valid(_lobby) and _lobby.host == self
	var _lobby: Lobby

	func _init(lobby: Lobby) -> void:
		_lobby = lobby

	## Changes the data of this member: one's own, or as the host that of others.
	func set_data(changes: Dictionary, if_seq := -1) -> Result:
		return await _lobby.set_data(changes, self, if_seq)


# An attempt or connection.
class Link:
	extends RefCounted
	# A WebSocketPeer.
	var socket: Object = null
	var is_welcome := false
	var goodbye: Dictionary = {}


class Request:
	extends RefCounted
	signal settled
	var text := ""
	# 0: not sent.
	var ref := 0
	var is_control := false
	var result: Result = null


## A [String], or a [Callable] that returns one, called for each attempt; it may wait. With
## [code]null[/code] the attempt has failed. It is sent as a subprotocol, not in the address.
var token: Variant = ""
## Distinguishes clients with the same address in one web page. Each comes back to its own seat
## after a reload.
var key := ""
## Seconds until [method request] is settled with [code]timeout[/code].
var request_timeout := 10.0
## Seconds of silence after which the client asks for a sign of life. Without one within half that
## time it gives the connection up and comes back. 0: never. Not in web exports, where the browser
## runs the timers of a hidden page rarely.
var heartbeat := 20.0
## The [member session] of the game before it was started again, set before [method join]: this
## client takes over its seat.
var was := ""
## For the certificates of [code]wss[/code].
var tls_options: TLSOptions = null
## Four times the bytes of the largest frame: [code]max_outbound_bytes[/code] of the server.
var inbound_buffer_size := 1_048_576

var url := ""
var state := State.IDLE
## Why it waits for the next attempt, or is closed: as in the last [signal state_changed]. Empty in
## other states.
var why: Dictionary = {}
## What the game passes as [member was] after it was started again. A secret of the user, like the
## token.
var session: String:
	get:
		return _session if _was.is_empty() else _was
## By [member Member.conn].
var members: Dictionary = {}
## Number of members, also in a lobby that is too large for a list.
var count := 0
## Watchers have none.
var me: Member = null
## The server's last [code]welcome[/code].
var welcome: Dictionary = {}
## Shortest recent round trip in milliseconds, to the next frame; -1 without one.
var latency := -1
## The lobby's name, to share with others.
var code: String:
	get:
		return welcome.get("lobby", "")
## Number of the last message that was read.
var seq: int:
	get:
		return maxi(_position, 0)

# Empty without lobby control.
var data: Dictionary = {}
var settings: Dictionary = {}
var watchers := 0
## When the game starts, in milliseconds since the Unix epoch, or -1.
var countdown := -1
## [code]null[/code] if none is known.
var host: Member:
	get:
		return members.get(_host)

## The list of [method list]: at most 100 lobbies, the oldest first. [member more]: there are
## others.
var lobbies: Array = []
var more := false

var _host := ""
var _is_list := false
# Chosen once for each lobby that is joined.
var _session := ""
# The session of the page before it was reloaded, until the first welcome.
var _was := ""

# The current attempt or connection. What another one reports is ignored.
var _link: Link = null
# Sockets that are closing after `leave`.
var _former: Array[Object] = []
# The first list was read: from now on changes are told.
var _is_known := false
# `[due, action, is_late]` by name, and those of requests. `pause` is one that the server has asked
# for.
var _timers: Dictionary = {}
var _polled_at := 0.0
# When something of the current connection has arrived.
var _heard_at := 0.0
var _attempt := 0
var _is_expired := false
# An attempt of this client, or of the page before, had no answer: it may still reach the server,
# and displace a later connection.
var _has_stray := false
# Of the server that has the lobby, if a goodbye has named one.
var _home := ""
# The server wants no attempt before, and this wait at most: the clock may be set back.
var _not_before := 0.0
var _least := 0.0
# 0: not lost.
var _lost_at := 0.0

# Where to continue: the number of the last message and its epoch, and that of the last direct
# message. -1: no position.
var _position := -1
var _epoch := 0
var _n := 0
var _has_gap := false

# Requests that are not settled, in order; those without `ref` are not sent.
var _kept: Array[Request] = []
var _kept_bytes := 0
# Requests without an answer by `ref`, among them those that have timed out.
var _sent: Dictionary = {}
var _ref := 0
# When the server last refused a message for its rate, and when the last request or volatile message
# was sent. In ticks.
var _limited_at := -INF
var _said_at := -INF
# Requests whose callers are told when the current message or timer was handled: they may send
# others.
var _settled: Array[Request] = []
var _is_handling := false

var _samples: Array = []
var _offset := 0.0

var _joining: Request = null
# Signals before the first list: they wait for those who connect to them after `await join()`.
var _early: Array = []
var _is_early := true

# On web exports.
var _page_callback: JavaScriptObject = null
var _interval_callback: JavaScriptObject = null
var _interval := 0

var _handlers := {
	"welcome": _welcomed,
	"presence_state": _listed,
	"presence_diff": _changed,
	"ack": _answered,
	"error": _answered,
	"pong": _sampled,
	"health_ping": _pinged,
	"goodbye": _dismissed,
}
var _control_handlers := {
	"lobby_state": _stated,
	"state": _data_set,
	"host": _hosted,
	"settings": _configured,
	"countdown": _counted,
	"start": _start,
}


func _init() -> void:
	process_mode = Node.PROCESS_MODE_ALWAYS


func _process(_delta: float) -> void:
	_poll()


func _notification(what: int) -> void:
	match what:
		NOTIFICATION_PREDELETE:
			leave()
		NOTIFICATION_APPLICATION_RESUMED, NOTIFICATION_APPLICATION_FOCUS_IN:
			# A web page has events of its own.
			if _link != null and not _is_web():
				_wake(false)


## Joins a lobby, and leaves the one before. Its members are known when it returns. If it fails,
## [member Result.error] is a reason word, such as [code]lobby_full[/code], or
## [code]bad_url[/code] for an address that can never work.
func join(address: String, with_token: Variant = token) -> Result:
	return await _start_with(address, with_token, false)


## The lobbies that can be joined, live: [member lobbies] and [signal lobbies_changed]. [param
## address] is that of [code]/ws/~lobbies[/code]; [param filters] may have [code]pool[/code] and
## [code]tags[/code].
func list(address: String, filters: Dictionary = {}) -> Result:
	return await _start_with(_filtered(_absolute(address), filters), token, true)


## The same once. [member Result.fields] has [code]lobbies[/code], and [code]next[/code] for
## [code]filters.after[/code].
func find(address: String, filters: Dictionary = {}) -> Result:
	var parts := _split(_filtered(_absolute(address), filters))
	parts.scheme = parts.scheme.replace("ws", "http")
	parts.path = parts.path.replace("/ws/~", "/")
	var fault := _fault(_joined(parts))
	if not fault.is_empty():
		return Result.new(fault)
	var answer: Array = await _http_get(_joined(parts))
	if answer[0] != 200:
		var codes := {404: "no_control", 429: "rate_limited"}
		return Result.new(codes.get(answer[0], "unavailable"), {"status": answer[0]})
	var body: Variant = _parse(answer[1])
	if body is Dictionary and body.get("lobbies") is Array:
		return Result.new("", body)
	return Result.new("unavailable", {"status": 200})


## Gives the seat up. Without a connection it is kept until its time is over. Nothing more is told.
## With [param keep_seat] the game can take the seat over when it is started again: see
## [member was].
func leave(keep_seat := false) -> void:
	if state == State.IDLE or state == State.CLOSED:
		return
	if not keep_seat:
		_say('{"type":"leave"}')
	# 1001: "going away", which browsers do not allow. After it the seat is kept.
	_drop(1000 if not keep_seat else -1 if _is_web() else 1001)
	_close({"code": 1000, "reason": "left"})
	_deliver()


## For games that learn that the network is back: looks at once whether the connection is alive, or
## ends the wait for the next attempt, as far as the server allows it.
func wake() -> void:
	_wake(true)


## The server's time in milliseconds since the Unix epoch.
func now() -> int:
	return roundi(_ticks() + _offset)


# ---- lobby control ----


## Changes data of the lobby, or of the member [param of] ([member Member.conn] will do).
## [code]null[/code] deletes a key. With [param if_seq] only if none of the keys has changed since
## that [member seq]; otherwise the error is [code]conflict[/code].
func set_data(changes: Dictionary, of: Variant = null, if_seq := -1) -> Result:
	var payload := {"data": changes}
	if of != null:
		payload["of"] = of.conn if of is Member else of
	if if_seq >= 0:
		payload["if"] = if_seq
	return await _keep("set", payload, request_timeout, true)


## As the host: changes some settings. [code]null[/code] means the default.
func configure(changes: Dictionary) -> Result:
	return await _keep("settings", {"settings": changes}, request_timeout, true)


## As the host: ends the seats of a user. With [param ban] it cannot come back. [param who] is a
## member or a user id.
func kick(who: Variant, ban := false) -> Result:
	var payload := {"user": who.user if who is Member else who}
	if ban:
		payload["ban"] = true
	return await _keep("kick", payload, request_timeout, true)


## As the host.
func unban(user: String) -> Result:
	return await _keep("unban", {"user": user}, request_timeout, true)


## As the host: makes another member the host.
func hand_over(who: Variant) -> Result:
	return await _keep("host", {"conn": who.conn if who is Member else who}, request_timeout, true)


# ---- what is sent ----


## Sends a request. The server executes it at most once, also if the connection is lost meanwhile.
## [member Result.fields] are those of its [code]ack[/code]. A payload that is not a dictionary is
## sent as [code]data[/code].
func request(type: String, payload: Variant = {}, timeout := request_timeout) -> Result:
	return await _keep(type, payload, timeout, false)


## Sends a message now or never, and returns whether it was sent.
func send(type: String, payload: Variant = {}) -> bool:
	var text := _encode(type, payload)
	if text.is_empty() or _is_too_large(text.to_utf8_buffer().size()):
		push_error("Lobby: the message is too large, or has a key 'type' or 'ref'")
		return false
	var is_sent := not _is_blocked() and _say(text)
	if is_sent:
		_said_at = _ticks()
	return is_sent


## The same for a binary message.
func send_bytes(bytes: PackedByteArray) -> bool:
	if _is_too_large(bytes.size()):
		push_error("Lobby: the message is too large")
		return false
	var is_sent: bool = not _is_blocked() and _link.socket.put_packet(bytes) == OK
	if is_sent:
		_said_at = _ticks()
	return is_sent


func _keep(type: String, payload: Variant, timeout: float, is_control: bool) -> Result:
	var text := _encode(type, payload)
	if text.is_empty():
		push_error("Lobby: the client sets 'type' and 'ref'")
		return Result.new("bad_payload")
	var bytes := text.to_utf8_buffer().size()
	if _is_too_large(bytes + REF_BYTES):
		return Result.new("too_large")
	if state == State.IDLE or state == State.CLOSED:
		return Result.new("closed")
	if _kept.size() >= MAX_REQUESTS or (_kept_bytes > 0 and _kept_bytes + bytes > MAX_BYTES):
		return Result.new("queue_full")
	var kept := Request.new()
	kept.text = text
	kept.is_control = is_control
	var expire := func() -> void:
		_settle(kept, Result.new("timeout"))
		_probe()
	_after(kept, timeout * 1_000, expire)
	_kept.append(kept)
	_kept_bytes += bytes
	_flush()
	if kept.result == null:
		await kept.settled
	return kept.result


# A message above the server's limit would end the connection for good.
func _is_too_large(bytes: int) -> bool:
	return (
		not welcome.is_empty() and bytes > welcome.get("limits", {}).get("max_message_bytes", bytes)
	)


func _is_blocked() -> bool:
	return (
		not _is_welcome()
		or _timers.has("pause")
		or _is_too_soon()
		or _link.socket.get_current_outbound_buffered_amount() > MAX_BYTES
	)


# How many requests may be unanswered: one after a refusal for the rate, and one more with each
# second since.
func _window() -> float:
	return minf(MAX_SENT, 1 + floorf((_ticks() - _limited_at) / 1_000))


# Volatile messages keep the distance of the server's rate for some time after a refusal: they need
# not wait for answers.
func _is_too_soon() -> bool:
	var rate: Variant = welcome.get("limits", {}).get("messages_per_second")
	var is_rate: bool = (rate is int or rate is float) and rate > 0
	return is_rate and _window() < MAX_SENT and _ticks() - _said_at < 1_000.0 / rate


func _is_welcome() -> bool:
	return (
		_link != null
		and _link.is_welcome
		and _link.socket.get_ready_state() == WebSocketPeer.STATE_OPEN
	)


func _say(text: String) -> bool:
	return _is_welcome() and _link.socket.send_text(text) == OK


func _flush() -> void:
	for kept: Request in _kept.duplicate():
		# Without a position a late attempt could make the server forget what it has executed.
		if (
			_link == null
			or not _link.is_welcome
			or _position < 0
			or _sent.size() >= _window()
			or _timers.has("pause")
		):
			return
		if kept.ref:
			continue
		# Without lobby control it would be a message to the other members.
		if kept.is_control and not _has_control():
			_settle(kept, Result.new("no_control", {"message": "the server has lobby control off"}))
			continue
		if _is_too_large(kept.text.to_utf8_buffer().size() + REF_BYTES):
			_settle(kept, Result.new("too_large"))
			continue
		_ref += 1
		kept.ref = _ref
		_sent[kept.ref] = kept
		_say_request(kept)


func _say_request(kept: Request) -> void:
	_said_at = _ticks()
	_say('%s,"ref":%d}' % [kept.text.left(-1), kept.ref])


func _settle(kept: Request, result: Result) -> void:
	if not _kept.has(kept):
		return
	_kept.erase(kept)
	_kept_bytes -= kept.text.to_utf8_buffer().size()
	_stop(kept)
	kept.result = result
	_settled.append(kept)


# Tells the callers of requests, and what has waited for that of `join`.
func _deliver() -> void:
	while not _settled.is_empty():
		var settled: Request = _settled.pop_front()
		settled.settled.emit()
	if _is_known and _is_early and state != State.CLOSED:
		_is_early = false
		var early := _early
		_early = []
		var link := _link
		for entry: Array in early:
			# A listener may have left, or joined another lobby.
			if link == _link:
				callv(&"emit_signal", entry)


func _tell(what: StringName, values: Array) -> void:
	if _is_known:
		_emit(what, values)


func _emit(what: StringName, values: Array) -> void:
	if _is_early:
		_early.append([what] + values)
	elif state != State.CLOSED:
		callv(&"emit_signal", [what] + values)


func _become(next: State, ended: Dictionary = {}) -> void:
	if state == next or state == State.CLOSED:
		return
	state = next
	why = ended
	state_changed.emit(state, why)


# ---- time ----


func _poll() -> void:
	var due := _due_timers()
	var before := _polled_at
	_polled_at = _wall()
	# Nothing ran for a while: the computer or the page slept.
	if _link != null and _polled_at - before > 5_000:
		_wake(false)
	_poll_sockets()
	# A timer that what has arrived has stopped or renewed is not due any more.
	for timer: Variant in due:
		if is_same(_timers.get(timer), due[timer]):
			_expire(timer)


func _due_timers() -> Dictionary:
	var due := {}
	for timer: Variant in _timers:
		if _timers[timer][0] <= _ticks():
			due[timer] = _timers[timer]
	return due


# A timer that fires late has slept with its page: what has arrived meanwhile is handled first. Not
# again: the game may be slow.
func _expire(timer: Variant) -> void:
	var action: Callable = _timers[timer][1]
	if _ticks() - _timers[timer][0] > 1_000 and not _timers[timer][2]:
		_after(timer, 100, action, true)
		return
	_timers.erase(timer)
	action.call()
	_deliver()


func _after(timer: Variant, ms: float, action: Callable, is_late := false) -> void:
	_timers.erase(timer)
	_timers[timer] = [_ticks() + ms, action, is_late]


func _stop(timer: Variant) -> void:
	_timers.erase(timer)


# ---- the connection ----


func _start_with(address: String, with_token: Variant, is_list: bool) -> Result:
	if not is_inside_tree():
		push_warning("Lobby: the node works in the tree only; add it with add_child()")
	leave()
	if _is_handling:
		# The rest of the message is not about the next lobby.
		var handled := Request.new()
		_settled.append(handled)
		await handled.settled
		leave()
	_reset()
	url = _absolute(address)
	token = with_token
	_is_list = is_list
	_joining = Request.new()
	var joining := _joining
	var fault := _fault(url)
	if fault.is_empty():
		_watch_page()
		_open()
	else:
		_close({"code": 4007, "reason": fault})
		_deliver()
	if joining.result == null:
		await joining.settled
	return joining.result


func _reset() -> void:
	state = State.IDLE
	why = {}
	_forget()
	_session = Crypto.new().generate_random_bytes(16).hex_encode()
	_was = ""
	_link = null
	_is_known = false
	_timers = {}
	_polled_at = _wall()
	_attempt = 0
	_is_expired = false
	_has_stray = false
	_home = ""
	_not_before = 0.0
	_lost_at = 0.0
	_position = -1
	_epoch = 0
	_n = 0
	_has_gap = false
	_sent = {}
	_ref = 0
	_limited_at = -INF
	_said_at = -INF
	_samples = []
	_offset = _wall() - _ticks()
	_early = []
	_is_early = true


func _forget() -> void:
	members = {}
	count = 0
	me = null
	welcome = {}
	latency = -1
	data = {}
	settings = {}
	watchers = 0
	countdown = -1
	_host = ""
	lobbies = []
	more = false


func _open() -> void:
	var link := Link.new()
	_link = link
	_limit(link)
	_become(State.CONNECTING)
	var value: Variant = await token.call() if token is Callable else token
	if link != _link:
		return
	if value == null:
		_lost(link, {"code": 1006, "reason": "no_token"})
		return
	link.socket = _make_socket(_address(), _protocols(str(value)))
	if link.socket == null:
		_lost(link)


# The server itself allows 10 s for authorization. The list may take as long after the welcome.
func _limit(link: Link) -> void:
	var give_up := func() -> void:
		_lost(link, {"code": 1006, "reason": "no_list" if link.is_welcome else "no_welcome"})
	_after("connect", 15_000, give_up)


func _address() -> String:
	var parts := _split(url)
	parts.scheme = parts.scheme.replace("http", "ws")
	if not _home.is_empty():
		var home := _split(_home)
		parts.scheme = home.scheme
		parts.host = home.host
	if not code.is_empty():
		var quick: int = parts.path.rfind("/~quick/")
		parts.path = parts.path.left(quick if quick >= 0 else parts.path.rfind("/")) + "/" + code
		# With `create=0`: the lobby may be gone with its server. Its members come back nevertheless.
		parts.query = _without_field(parts.query, "create")
	# A list has no seat.
	if not _is_list:
		var fields := {"session": _session}
		if not _was.is_empty():
			fields["was"] = _was
		if _position >= 0:
			fields.merge({"epoch": _epoch, "seq": _position, "n": _n})
		parts.query = _with_fields(parts.query, fields)
	return _joined(parts)


static func _protocols(value: String) -> PackedStringArray:
	var protocols := PackedStringArray(["lobby.v1.json"])
	if not value.is_empty():
		var base64 := Marshalls.utf8_to_base64(value).replace("+", "-").replace("/", "_")
		protocols.append("base64url.bearer.lobby." + base64.trim_suffix("=").trim_suffix("="))
	return protocols


func _poll_sockets() -> void:
	for socket in _former.duplicate():
		socket.poll()
		if socket.get_ready_state() == WebSocketPeer.STATE_CLOSED:
			_former.erase(socket)
	var link := _link
	if link == null or link.socket == null:
		return
	link.socket.poll()
	# Also of a socket that is closed.
	var has_read_all := _read_all(link)
	if link != _link:
		return
	if not has_read_all:
		_lost(link)
	elif link.socket.get_ready_state() == WebSocketPeer.STATE_CLOSED:
		_lost(
			link, {"code": link.socket.get_close_code(), "reason": link.socket.get_close_reason()}
		)
	_deliver()


# A socket drops what does not fit in its buffer, without a word. So when the buffer might have been
# full, only what came before is handled, and the connection is given up: the server sends the rest
# again.
func _read_all(link: Link) -> bool:
	var socket := link.socket
	var packets: int = socket.get_available_packet_count()
	var has_room := packets < MAX_PACKETS - 1
	var bytes := 0
	for i in packets:
		var packet: PackedByteArray = socket.get_packet()
		bytes += packet.size()
		if bytes > inbound_buffer_size * 3 / 4:
			return false
		_receive(packet, socket.was_string_packet())
		_deliver()
		if link != _link:
			return true
	return has_room


# A socket that is given up is closed without a code: the code 1000 would give the seat up, too.
func _drop(with_code: int) -> void:
	var socket: Object = null if _link == null else _link.socket
	_link = null
	for timer: String in ["connect", "stable", "probe", "heartbeat", "retry"]:
		_stop(timer)
	if socket == null:
		return
	socket.close(with_code)
	if with_code >= 0:
		_former.append(socket)


func _lost(link: Link, ended: Dictionary = {}) -> void:
	if link != _link:
		return
	_drop(-1)
	var ending := ended if link.goodbye.is_empty() else link.goodbye
	var close_code: int = ending.get("code", -1)
	if close_code < 0:
		close_code = 1006
	var reason: String = ending.get("reason", "")
	var home: String = ending.get("url", "")
	# The server of the lobby. If it cannot be reached, the first address knows where the lobby is
	# then.
	_home = home if not home.is_empty() or not link.is_welcome else _home
	# A token that has expired is renewed. If the new one is refused at once, a third would be, too.
	# A client that was replaced by its own stray attempt comes back. If there is a newer login, a
	# client with a position is refused.
	var is_renewed := reason == "token_expired" and not _is_expired
	if close_code == 4004:
		is_renewed = _has_stray and _position >= 0
		_has_stray = false
	_is_expired = close_code == 4001
	if close_code == 1006 and link.socket != null and not link.is_welcome:
		_has_stray = true
	var comes_back: bool = ending.get("reconnect", _comes_back(close_code))
	if close_code == 4001 or close_code == 4004:
		comes_back = is_renewed
	if not comes_back:
		_close({"code": close_code, "reason": reason})
		return

	var least: float = ending.get("retry_after_ms", 0)
	var is_asked := not home.is_empty() or close_code / 100 == 42 or close_code / 100 == 46
	var is_at_once := is_renewed or (is_asked and _attempt == 0)
	var longest := minf(20_000, 500 * pow(2, _attempt))
	var wait := maxf(least, 0.0 if is_at_once else _random() * longest)
	_attempt += 1
	_not_before = _wall() + least
	_least = least
	if _lost_at == 0:
		_lost_at = _wall()
	_retry_in(wait)
	_become(State.WAITING, {"code": close_code, "reason": reason, "wait": wait})


static func _comes_back(close_code: int) -> bool:
	return close_code in [1001, 1005, 1006, 1011] or close_code / 100 in [41, 42, 45, 46]


func _retry_in(wait: float) -> void:
	var retry := func() -> void:
		# A hidden page whose seat is gone waits until it is visible.
		if _wall() - _lost_at <= welcome.get("away_ms", 30_000) or not _is_hidden():
			_open()
	_after("retry", wait, retry)


func _close(ended: Dictionary) -> void:
	_unwatch_page()
	var reason: String = ended.reason
	_settle_joining(Result.new(str(ended.code) if reason.is_empty() else reason, ended))
	for kept: Request in _kept.duplicate():
		_settle(kept, Result.new("closed", ended))
	_become(State.CLOSED, ended)


func _settle_joining(result: Result) -> void:
	if _joining != null and _joining.result == null:
		_joining.result = result
		_settled.append(_joining)


func _wake(is_online: bool) -> void:
	if state != State.WAITING:
		_probe()
	elif is_online or not (_timers.has("retry") or _is_hidden()):
		_retry_in(clampf(_not_before - _wall(), 0, _least))


# A dead connection looks like a silent one, until something is sent that must be answered. Another
# question does not postpone the end of the one before.
func _probe(ms := 3_000.0) -> void:
	var link := _link
	var is_sooner: bool = not _timers.has("probe") or _timers["probe"][0] > _ticks() + ms
	if is_sooner and _ping():
		_after("probe", ms, func() -> void: _lost(link))


# Asks if nothing has arrived for some time. What arrives does not set the timer anew.
func _beat() -> void:
	var ms := heartbeat * 1_000
	if ms <= 0:
		return
	var rest := _heard_at + ms - _ticks()
	if rest <= 0:
		_probe(ms / 2)
	_after("heartbeat", rest if rest > 0 else ms, _beat)


# Its `ref` is a string, because integers are the numbers of requests.
func _ping() -> bool:
	return _say('{"type":"ping","ref":"%d"}' % (_ticks() * 1_000))


# ---- the page, on web exports ----


func _watch_page() -> void:
	var kept := "" if _is_list else str(_page_store("getItem"))
	# Taken and removed: a duplicated tab gets a copy of the storage, and must not claim the seat of
	# this one.
	_was = kept if not kept.is_empty() else was
	was = ""
	_has_stray = not _was.is_empty()
	_page_store("removeItem")
	if not _is_web():
		return
	JavaScriptBridge.eval(KEEP_SEAT)
	_page_callback = JavaScriptBridge.create_callback(
		func(values: Array) -> void:
			_page_event(values[0].type, values[0].persisted == true)
			_deliver()
	)
	# The browser draws no frames of a hidden page.
	_interval_callback = JavaScriptBridge.create_callback(
		func(_values: Array) -> void:
			if _is_hidden():
				_poll()
	)
	var window := JavaScriptBridge.get_interface("window")
	for type in PAGE_EVENTS:
		window.addEventListener(type, _page_callback, true)
	_interval = window.setInterval(_interval_callback, 1_000)


func _unwatch_page() -> void:
	if _interval == 0:
		return
	var window := JavaScriptBridge.get_interface("window")
	for type in PAGE_EVENTS:
		window.removeEventListener(type, _page_callback, true)
	window.clearInterval(_interval)
	_interval = 0


func _page_event(type: String, is_kept: bool) -> void:
	if type == "pagehide":
		if not _is_list:
			_page_store("setItem", _session if _was.is_empty() else _was)
		# The browser keeps the page, and may keep its connection open: the member would look
		# present.
		if is_kept and _link != null:
			_lost(_link)
		return
	if type == "pageshow":
		_page_store("removeItem")
	_wake(type == "online")


# ---- what arrives ----


func _receive(packet: PackedByteArray, is_text: bool) -> void:
	_stop("probe")
	_heard_at = _ticks()
	if not is_text:
		_emit(&"bytes_received", [packet])
		return
	var message: Variant = _parse(packet.get_string_from_utf8())
	if message is Dictionary and message.get("type") is String:
		_is_handling = true
		_handle(message)
		_is_handling = false


func _handle(message: Dictionary) -> void:
	var type: String = message.type
	if type != "welcome" and message.get("seq") is int:
		_epoch = welcome.get("epoch", 0)
		_position = maxi(message.seq, _position)
	var handler: Callable = _handlers.get(type, _hear)
	if _has_control():
		handler = _control_handlers.get(type, handler)
	if _is_list and (type == "lobbies" or type == "lobbies_diff"):
		handler = _listing
	handler.call(message)


func _has_control() -> bool:
	return welcome.get("control", false)


func _pinged(message: Dictionary) -> void:
	_say('{"type":"health_pong","timestamp":%d}' % message.get("timestamp", 0))


# Fields of another type are left out: they would end the function that handles the end of the
# connection.
func _dismissed(message: Dictionary) -> void:
	var goodbye := {}
	for field: String in GOODBYE:
		if typeof(message.get(field)) == GOODBYE[field]:
			goodbye[field] = message[field]
	if goodbye.has("code"):
		_link.goodbye = goodbye


func _connected() -> void:
	_limit(_link)
	_lost_at = 0
	# The backoff begins anew after so long a connection.
	var stable := func() -> void:
		_attempt = 0
		_is_expired = false
	_after("stable", 5_000, stable)
	if heartbeat > 0 and not _is_web():
		_after("heartbeat", heartbeat * 1_000, _beat)


func _welcomed(message: Dictionary) -> void:
	# The session may have got another seat on a connection whose welcome was lost.
	var resumed: bool = (
		message.get("resumed", false) and message.conn == welcome.get("conn", message.conn)
	)
	if _position >= 0 and not message.get("recovered", false):
		_has_gap = true
	if not resumed or message.epoch != _epoch:
		_position = -1
	var n: int = message.get("n", 0)
	_n = maxi(n, _n) if resumed else n
	_was = ""
	latency = -1
	_samples = []
	_offset = message.server_time - _ticks()
	welcome = message
	_connected()
	_link.is_welcome = true
	var done: int = message.get("done", 0)
	_ref = maxi(_ref, done)
	for ref: int in _sent.keys():
		var kept: Request = _sent[ref]
		if resumed and ref > done and _kept.has(kept):
			_say_request(kept)
			continue
		_sent.erase(ref)
		if not resumed:
			_settle(kept, Result.new("unknown"))
		elif ref <= done and _has_bit(message.get("refused", "0"), done - ref):
			_settle(kept, Result.new("refused"))
		else:
			_settle(kept, Result.new())
	_ping()
	_flush()


# Whether a number in hexadecimal digits, of more than 63 bits, has that bit.
static func _has_bit(digits: String, bit: int) -> bool:
	var digit := digits.length() - 1 - bit / 4
	return digit >= 0 and (digits[digit].hex_to_int() >> bit % 4) & 1 == 1


# The list replaces what was known. What differs is told, so that the signals and `members` always
# agree.
func _listed(message: Dictionary) -> void:
	var own: String = welcome.get("conn", "")
	var entries: Array = message.get("users", [])
	if (
		not message.has("users")
		and not (url.contains("?role=watch") or url.contains("&role=watch"))
	):
		entries = [
			_entry(members[own]) if members.has(own) else {"user": welcome.get("user"), "conn": own}
		]
	var listed := {}
	for entry: Dictionary in entries:
		listed[entry.conn] = entry
	var gone := []
	for member: Member in members.values():
		# A server that was started anew gives the names of seats again. With another user it is
		# another member.
		if listed.get(member.conn, {}).get("user") != member.user:
			gone.append(_merged(_entry(member), {"reason": "unknown"}))
	var known: Member = members.get(own)
	if not listed.has(own):
		me = null
	elif known == null or known.user != listed[own].user:
		me = _make_member(listed[own])
	else:
		me = known
	_changed({"joins": entries, "leaves": gone})
	for conn: String in listed:
		var member: Member = members.get(conn)
		if member != null:
			_replace_data(member, listed[conn].get("data", {}), null, message.get("seq"))
	count = message.get("count", entries.size())
	_flush()
	if not _has_control():
		_stated({})


static func _entry(member: Member) -> Dictionary:
	return {"user": member.user, "conn": member.conn, "away": member.away, "data": member.data}


# The rest of what is known: it follows the list.
func _stated(message: Dictionary) -> void:
	watchers = message.get("watchers", 0)
	_replace_settings(message.get("settings", {}), null, message.get("seq"))
	_replace_data(null, message.get("data", {}), null, message.get("seq"))
	_hosted({"conn": message.get("host")})
	_counted({"at": message.get("countdown")})
	_opened()
	if _has_gap:
		_emit(&"gap_detected", [])
	_has_gap = false


func _opened() -> void:
	_is_known = true
	_stop("connect")
	_settle_joining(Result.new())
	_become(State.OPEN)


func _changed(message: Dictionary) -> void:
	# A user with a new seat leaves the former one first. A member may also have joined and left
	# since the last change.
	var passing := []
	for entry: Dictionary in message.get("leaves", []):
		if members.has(entry.conn):
			_moved("leaves", entry)
		else:
			passing.append(entry)
	for entry: Dictionary in message.get("joins", []):
		_moved("joins", entry)
	for entry: Dictionary in passing:
		_moved("leaves", entry)
	for kind: String in ["away", "back"]:
		for entry: Dictionary in message.get(kind, []):
			_moved(kind, entry)
	count = members.size()
	_emit(&"members_changed", [])


func _make_member(entry: Dictionary) -> Member:
	var member := Member.new(self)
	member.user = entry.user
	member.conn = entry.conn
	member.data = entry.get("data", {})
	return member


# Members of the first list are not told.
func _moved(kind: String, entry: Dictionary) -> void:
	var member: Member = members.get(entry.conn)
	var is_new := member == null
	if is_new:
		member = me if me != null and me.conn == entry.conn else _make_member(entry)
	var was_away := member.away
	member.away = entry.get("away", kind == "away")
	if kind == "leaves":
		members.erase(member.conn)
		_tell(&"member_left", [member, entry.get("reason", "")])
		return
	members[member.conn] = member
	# A list names known members, too.
	if is_new and kind == "joins":
		_tell(&"member_joined", [member])
	elif is_new or member.away != was_away:
		_tell(&"member_away" if member.away else &"member_back", [member])


func _data_set(message: Dictionary) -> void:
	var conn: Variant = message.get("conn")
	var member: Member = members.get(conn)
	# In a lobby that is too large for a list the others are unknown.
	if conn != null and member == null:
		return
	var next := data if member == null else member.data
	_replace_data(
		member, _without_nulls(_merged(next, message.data)), message.get("by"), message.get("seq")
	)


func _replace_data(member: Member, next: Dictionary, by: Variant, at: Variant) -> void:
	var changes := _changes(data if member == null else member.data, next)
	if member == null:
		data = next
	else:
		member.data = next
	if not changes.is_empty():
		_tell(&"data_changed", [changes, member, {"by": by, "seq": at}])


func _configured(message: Dictionary) -> void:
	_replace_settings(_merged(settings, message.settings), message.get("by"), message.get("seq"))


func _replace_settings(next: Dictionary, by: Variant, at: Variant) -> void:
	var changes := _changes(settings, next)
	settings = next
	if not changes.is_empty():
		_tell(&"settings_changed", [changes, {"by": by, "seq": at}])


func _hosted(message: Dictionary) -> void:
	var conn: Variant = message.get("conn")
	var next: String = "" if conn == null else conn
	if next != _host:
		_host = next
		_tell(&"host_changed", [host])


func _counted(message: Dictionary) -> void:
	var at: Variant = message.get("at")
	var next: int = -1 if at == null else at
	if next != countdown:
		countdown = next
		_tell(&"countdown_changed", [next])


func _start(message: Dictionary) -> void:
	countdown = -1
	_tell(&"started", [message.get("seats", [])])


# A list, or what has changed since.
func _listing(message: Dictionary) -> void:
	var is_whole := message.has("lobbies")
	if is_whole:
		_connected()
	_link.is_welcome = true
	var all := {}
	if not is_whole:
		for entry: Dictionary in lobbies:
			all[entry.code] = entry
		for gone: String in message.get("gone", []):
			all.erase(gone)
	for entry: Dictionary in message.lobbies if is_whole else message.get("set", []):
		all[entry.code] = entry
	lobbies = all.values()
	more = message.get("more", more)
	_opened()
	_emit(&"lobbies_changed", [lobbies, more])


func _hear(message: Dictionary) -> void:
	var is_direct: bool = message.type == "direct"
	if is_direct and message.has("n"):
		# A server that was told no position sends direct messages again.
		if message.n <= _n:
			return
		_n = message.n
	var content: Variant = message
	if is_direct or message.type == "message":
		content = message.get("data")
	var type := ""
	if content is Dictionary and content.get("type") is String:
		type = content.type
		content = content.duplicate()
		content.erase("type")
		content.erase("ref")
	var meta := {"from": message.get("from"), "seq": message.get("seq"), "is_direct": is_direct}
	_emit(&"message_received", [type, content, meta])


func _answered(message: Dictionary) -> void:
	var ref: Variant = message.get("ref")
	var kept: Request = _sent.get(ref)
	var answer := message.duplicate()
	answer.erase("type")
	answer.erase("ref")
	var error := ""
	if message.type == "error":
		error = answer.get("code", "error")
		answer.erase("code")
	var is_limited := error == "rate_limited"
	if is_limited:
		_limited_at = _ticks()
		var pause: Variant = answer.get("retry_after_ms")
		_after("pause", pause if pause is int or pause is float else 1_000, _flush)
	if kept == null:
		# Without a `ref` it answers a volatile message.
		if not error.is_empty() and ref == null:
			_emit(&"send_refused", [Result.new(error, answer)])
		return
	_sent.erase(ref)
	if is_limited:
		# The number is used up.
		kept.ref = 0
	else:
		_settle(kept, Result.new(error, answer))
	_flush()


func _sampled(message: Dictionary) -> void:
	var ref: Variant = message.get("ref")
	if not ref is String:
		# Of a request, or of `send`.
		_answered(message)
		return
	var at := _ticks()
	var then: float = ref.to_float() / 1_000
	var round_trip := at - then
	var offset: float = message.server_time - (at + then) / 2
	# One that contradicts is from before a sleep, during which this clock stood still.
	_samples = _samples.filter(
		func(sample: Array) -> bool:
			return absf(offset - sample[1]) <= (round_trip + sample[0]) / 2 + 5
	)
	_samples.push_front([roundi(round_trip), offset])
	_samples = _samples.slice(0, 8)
	var best: Array = _samples[0]
	for sample: Array in _samples:
		if sample[0] < best[0]:
			best = sample
	latency = best[0]
	_offset = best[1]


# ---- the world outside; tests replace it ----


func _ticks() -> float:
	return Time.get_ticks_usec() / 1_000.0


# Unlike ticks it goes on while the computer sleeps.
func _wall() -> float:
	return Time.get_unix_time_from_system() * 1_000


func _random() -> float:
	return randf()


func _is_web() -> bool:
	return OS.has_feature("web")


func _is_hidden() -> bool:
	return _is_web() and JavaScriptBridge.get_interface("document").hidden


# Calls a method of the page's storage. Returns a text, empty if the page has no storage, or may not
# use it.
func _page_store(method: String, value := "") -> Variant:
	if not _is_web():
		return ""
	var place := JSON.stringify("lobbyd " + (url if key.is_empty() else key))
	var call_it := "sessionStorage.%s(%s, %s)" % [method, place, JSON.stringify(value)]
	var stored: Variant = JavaScriptBridge.eval(
		"(() => { try { return %s } catch {} })()" % call_it
	)
	return stored if stored is String else ""


func _make_socket(address: String, protocols: PackedStringArray) -> Object:
	var socket := WebSocketPeer.new()
	socket.supported_protocols = protocols
	# Larger than the default of 64 KiB, which a message would fill.
	socket.inbound_buffer_size = inbound_buffer_size
	# No limit: the socket drops a message that does not fit, and a single request may be large.
	socket.outbound_buffer_size = 0
	socket.max_queued_packets = MAX_PACKETS
	return socket if socket.connect_to_url(address, tls_options) == OK else null


# Returns the status, 0 without an answer, and the body.
func _http_get(address: String) -> Array:
	var http := HTTPRequest.new()
	http.timeout = request_timeout
	if tls_options != null:
		http.set_tls_options(tls_options)
	add_child(http)
	var answer := [0, 0, [], PackedByteArray()]
	if http.request(address) == OK:
		answer = await http.request_completed
	http.queue_free()
	return [answer[1], answer[3].get_string_from_utf8()]


# ---- texts ----


# Godot reads every number as a float. Returns `null` for what is no JSON.
static func _parse(text: String) -> Variant:
	var json := JSON.new()
	return _exact(json.data) if json.parse(text) == OK else null


# Empty if the payload has keys that the client sets.
static func _encode(type: String, payload: Variant) -> String:
	var fields: Dictionary = {} if payload == null else {"data": payload}
	if payload is Dictionary:
		fields = payload
	if fields.has("type") or fields.has("ref"):
		return ""
	return _json(_exact(_merged({"type": type}, fields)))


# Some versions of Godot write a vertical tab as `\v`, and most other control characters as they
# are. Neither is JSON: https://github.com/godotengine/godot/issues/109482.
static func _json(value: Variant) -> String:
	var text := JSON.stringify(value, "", false, true)
	if _no_json.search(text) == null:
		return text
	for control in range(1, 32):
		text = text.replace(char(control), "\\u%04x" % control)
	# The backslash of `\\v` is kept by a character that the text cannot have now.
	return text.replace("\\\\", char(1)).replace("\\v", "\\u000b").replace(char(1), "\\\\")


# Integral numbers as integers, so that they are written without a fraction, and are the same keys.
# JSON has no infinity.
static func _exact(value: Variant) -> Variant:
	match typeof(value):
		TYPE_FLOAT:
			if not is_finite(value):
				return null
			return int(value) if value == floor(value) and absf(value) < EXACT else value
		TYPE_DICTIONARY:
			var copy := {}
			for name: Variant in value:
				copy[name] = _exact(value[name])
			return copy
		TYPE_ARRAY, TYPE_PACKED_FLOAT32_ARRAY, TYPE_PACKED_FLOAT64_ARRAY:
			var copy := []
			for item: Variant in value:
				copy.append(_exact(item))
			return copy
	return value


static func _merged(base: Dictionary, others: Dictionary) -> Dictionary:
	var all := base.duplicate()
	all.merge(others, true)
	return all


static func _without_nulls(values: Dictionary) -> Dictionary:
	var rest := {}
	for name: Variant in values:
		if values[name] != null:
			rest[name] = values[name]
	return rest


# The values that differ; `null` for those that are gone.
static func _changes(before: Dictionary, after: Dictionary) -> Dictionary:
	var changes := {}
	for name: Variant in _merged(before, after):
		if before.has(name) != after.has(name) or not _is_same(before[name], after[name]):
			changes[name] = after.get(name)
	return changes


# Values of different types cannot be compared.
static func _is_same(value: Variant, other: Variant) -> bool:
	return typeof(value) == typeof(other) and value == other


# A page may use an address without its own origin.
func _absolute(address: String) -> String:
	if address.begins_with("/") and _is_web():
		return str(JavaScriptBridge.get_interface("location").origin) + address
	return address


# Why an address can never work, if it cannot. An application may have routes of its own, but under
# `/ws/` is a lobby.
static func _fault(address: String) -> String:
	var parts := _split(address)
	var host := (
		RegEx
		. create_from_string("^([^@]*@)?(\\[[0-9a-f:.]+\\]|[\\w.~-]+)(:\\d{1,5})?$")
		. search(parts.host.to_lower())
	)
	var is_scheme: bool = parts.scheme in ["ws", "wss", "http", "https"]
	if not is_scheme or host == null or host.get_string(3).to_int() > 65_535:
		return "bad_url"
	var wrong_name := RegEx.create_from_string("/ws/(?!~|[A-Za-z0-9_-]{1,64}$)[^/]*$")
	return "" if wrong_name.search(parts.path) == null else "bad_lobby_code"


static func _split(address: String) -> Dictionary:
	var rest := address.get_slice("#", 0)
	var scheme := rest.get_slice("://", 0)
	rest = rest.substr(scheme.length() + 3)
	var query := rest.get_slice("?", 1) if rest.contains("?") else ""
	rest = rest.get_slice("?", 0)
	var authority := rest.get_slice("/", 0)
	return {
		"scheme": scheme, "host": authority, "path": rest.substr(authority.length()), "query": query
	}


static func _joined(parts: Dictionary) -> String:
	var query: String = parts.query
	return (
		"%s://%s%s%s"
		% [parts.scheme, parts.host, parts.path, "" if query.is_empty() else "?" + query]
	)


static func _without_field(query: String, name: String) -> String:
	var parts := PackedStringArray()
	for part in query.split("&", false):
		if part.get_slice("=", 0) != name:
			parts.append(part)
	return "&".join(parts)


static func _with_fields(query: String, fields: Dictionary) -> String:
	for name: String in fields:
		query = _without_field(query, name)
	var parts := query.split("&", false)
	for name: String in fields:
		parts.append("%s=%s" % [name.uri_encode(), str(fields[name]).uri_encode()])
	return "&".join(parts)


static func _filtered(address: String, filters: Dictionary) -> String:
	var fields := filters.duplicate()
	fields.erase("tags")
	for tag: String in filters.get("tags", {}):
		fields["tag." + tag] = filters.tags[tag]
	var parts := _split(address)
	parts.query = _with_fields(parts.query, fields)
	return _joined(parts)
