extends Node
## Runs the transcripts of tests/vectors/ against lobby.gd, with a fake clock, network and page.
## tests/vectors/README.md describes the steps. Prints a JSON object for each transcript.

const Fakes := preload("res://fakes.gd")
const START := Fakes.START
const FOLDER := "res://vectors/"
# The game of the transcripts does not listen to this type.
const UNHEARD := "lobby_state"
const CONTROL_TYPES: Array[String] = ["data", "host", "settings", "countdown", "start"]
# Transcripts that are not run, and why.
const SKIPPED := {
	"event-stream": "there is no fallback to server-sent events",
	"event-stream-ends": "the same",
	"event-stream-fails-too": "the same",
	"event-stream-given-up": "the same",
	"leave-in-a-listener": "a signal is emitted to all that are connected to it",
	"throwing-listener":
	"GDScript has no exceptions: an error ends the function in which it occurs",
}


## One run of one transcript. Each step is a method, which returns what is wrong.
class Run:
	extends RefCounted
	var tree: Node
	var world := Fakes.World.new()
	var lobby: Fakes.FakeLobby
	var lobbies: Array[Fakes.FakeLobby] = []
	var socket: Fakes.FakeSocket
	var former: Fakes.FakeSocket
	var events: Array = []
	var outcomes := {}
	var joined: Variant = null
	var bound := {}

	func run(steps: Array) -> String:
		for i in steps.size():
			var wrong := _step(steps[i])
			if wrong:
				return "step %d %s: %s" % [i + 1, text(steps[i]), wrong]
		if world.said or world.sockets:
			return "the client goes on after the last step"
		return ""

	func end() -> void:
		for each in lobbies:
			each.leave()
			each.queue_free()

	func _step(step: Dictionary) -> String:
		if not step.has("client") and world.said:
			return "the client said " + text(world.said[0])
		var is_about_network := step.has("opens") or step.has("network")
		if not is_about_network and world.sockets:
			return "the client opened " + world.sockets[0].url
		var names := step.keys().filter(
			func(name: String) -> bool: return has_method("step_" + name)
		)
		if names.size() != 1:
			return "there is no such step"
		var wrong: String = call("step_" + names[0], step)
		if lobby:
			lobby._poll_sockets()
		return wrong if wrong else world.problem

	static func text(value: Variant) -> String:
		return JSON.stringify(value, "", true, true)

	static func equal(got: Variant, wanted: Variant, what: String) -> String:
		if text(got) == text(wanted):
			return ""
		return "%s: %s instead of %s" % [what, text(got), text(wanted)]

	# ---- what the application does ----

	func step_do(step: Dictionary) -> String:
		match step.do:
			"join":
				_join(
					step.get("url", "ws://lobby.example/ws/chess"),
					step.get("listener", ""),
					step.get("tokenless", 0)
				)
			"list":
				_make_lobby()
				_await_join(
					lobby.list.bind(
						step.get("url", "ws://lobby.example/ws/~lobbies"), step.get("filters", {})
					)
				)
			"find":
				if not lobby:
					_make_lobby()
				_outcome(step.id, lobby.find.bind(step.url, step.get("filters", {})))
			"request":
				var values := [step.type, step.get("payload", {})]
				if step.has("timeout"):
					values.append(step.timeout / 1_000.0)
				_outcome(step.id, lobby.request.bindv(values))
			"set":
				_set(step)
			"kick", "unban", "handOver", "configure":
				_control(step)
			"send":
				return equal(lobby.send(step.type, step.get("payload", {})), step.sent, "send()")
			"leave":
				lobby.leave()
			"reload":
				_reload()
			_:
				return "nobody can do this"
		return ""

	func _join(url: String, listener := "", tokenless := 0) -> void:
		_make_lobby(listener)
		var tokens := [0]
		var token := func() -> Variant:
			tokens[0] += 1
			return "token %d" % tokens[0] if tokens[0] > tokenless else null
		_await_join(lobby.join.bind(url, token))

	func _await_join(start: Callable) -> void:
		joined = null
		var result: Lobby.Result = await start.call()
		joined = "resolved" if result.ok else result.error

	func _make_lobby(listener := "") -> void:
		lobby = Fakes.FakeLobby.new()
		lobby.world = world
		lobbies.append(lobby)
		tree.add_child(lobby)
		lobby.set_process(false)
		var note := func(event: Array) -> void: events.append(event)
		var of := lobby
		lobby.member_joined.connect(func(who: Lobby.Member) -> void: note.call(["join", who.user]))
		lobby.member_left.connect(
			func(who: Lobby.Member, why: String) -> void: note.call(["leave", who.user, why])
		)
		if listener == "leaves":
			of.member_left.connect(func(_who: Lobby.Member, _why: String) -> void: of.leave())
		lobby.member_away.connect(func(who: Lobby.Member) -> void: note.call(["away", who.user]))
		lobby.member_back.connect(func(who: Lobby.Member) -> void: note.call(["back", who.user]))
		lobby.gap_detected.connect(func() -> void: note.call(["gap"]))
		lobby.message_received.connect(
			func(type: String, data: Variant, meta: Dictionary) -> void:
				if type != UNHEARD:
					note.call(_message(of, type, data, meta))
		)
		lobby.data_changed.connect(
			func(changes: Dictionary, who: Lobby.Member, meta: Dictionary) -> void:
				note.call(["data", changes, who.user if who else null, meta.by])
		)
		lobby.settings_changed.connect(
			func(changes: Dictionary, meta: Dictionary) -> void:
				note.call(["settings", changes, meta.by])
		)
		lobby.host_changed.connect(
			func(who: Lobby.Member) -> void: note.call(["host", who.user if who else null])
		)
		lobby.countdown_changed.connect(
			func(at: int) -> void: note.call(["countdown", null if at < 0 else at])
		)
		lobby.started.connect(
			func(seats: Array) -> void:
				note.call(["start", seats.map(func(seat: Dictionary) -> String: return seat.user)])
		)
		lobby.lobbies_changed.connect(
			func(all: Array, more: bool) -> void:
				note.call(
					["lobbies", all.map(func(entry: Dictionary) -> String: return entry.code), more]
				)
		)

	# A type may be the name of an event of lobby control. Signals have names of their own, so that
	# it cannot be mistaken.
	static func _message(of: Lobby, type: String, data: Variant, meta: Dictionary) -> Array:
		var kind := "direct" if meta.is_direct else "message"
		if type in CONTROL_TYPES and not of.welcome.get("control", false):
			kind = "typed"
		if type:
			data = data.duplicate()
			data["type"] = type
		return [kind, meta.from, data]

	func _set(step: Dictionary) -> void:
		var of: Variant = _member(step.get("of"))
		var seq: int = step.get("if", -1)
		if step.get("by") == "member":
			_outcome(step.id, of.set_data.bind(step.data, seq))
		else:
			_outcome(step.id, lobby.set_data.bind(step.data, of, seq))

	func _control(step: Dictionary) -> void:
		var values: Array = [_member(step.with[0])]
		if step.with.size() > 1:
			values.append(step.with[1].ban)
		_outcome(step.id, Callable(lobby, step.do.to_snake_case()).bindv(values))

	# A text like `@bob` stands for a member.
	func _member(name: Variant) -> Variant:
		if name is String and name.begins_with("@"):
			for member: Lobby.Member in lobby.members.values():
				if member.user == name.substr(1):
					return member
		return name

	func _outcome(id: String, start: Callable) -> void:
		outcomes[id] = null
		var result: Lobby.Result = await start.call()
		if result.ok:
			outcomes[id] = {"ack": result.fields}
			return
		outcomes[id] = {"error": result.error}
		if result.error == "conflict":
			outcomes[id].merge({"seq": result.fields.seq, "data": result.fields.data})

	func _reload() -> void:
		# In the order of browsers.
		lobby._page_event("pagehide", false)
		world.is_hidden = true
		lobby._page_event("visibilitychange", false)
		world.is_hidden = false
		world.sockets.clear()
		var url := lobby.url
		# Its timers and connections are gone.
		lobby.state = Lobby.State.CLOSED
		_join(url)

	# ---- the network ----

	func step_opens(step: Dictionary) -> String:
		if not world.sockets:
			return "the client opened no connection"
		former = socket
		socket = world.sockets.pop_front()
		var opens: Dictionary = step.opens
		if opens.get("kind", "WebSocket") != "WebSocket":
			return "it is a WebSocket"
		var address := socket.url.get_slice("?", 0)
		var origin: String = opens.get("origin", "ws://lobby.example")
		var wrong := equal(address, origin + opens.get("path", "/ws/chess"), "the address")
		var query := {}
		for part in socket.url.get_slice("?", 1).split("&", false):
			if query.has(part.get_slice("=", 0)):
				return "a field of the address is repeated"
			query[part.get_slice("=", 0)] = part.get_slice("=", 1).uri_decode()
		for name: String in opens.get("query", {}):
			var wanted: Variant = _value(opens.query[name], query.get("session", ""))
			wrong = wrong if wrong else equal(query.get(name), wanted, "?" + name)
		for name: String in opens.get("without", []):
			wrong = wrong if wrong else equal(query.get(name), null, "?" + name)
		if socket.protocols[0] != "lobby.v1.json":
			return "the first subprotocol is " + socket.protocols[0]
		if opens.has("token"):
			var bearer := (
				socket
				. protocols[1]
				. trim_prefix("base64url.bearer.lobby.")
				. replace("-", "+")
				. replace("_", "/")
			)
			var token := Marshalls.base64_to_utf8(bearer + "=".repeat(-bearer.length() & 3))
			wrong = wrong if wrong else equal(token, opens.token, "the token")
		if step.get("accepts", true):
			socket.ready_state = WebSocketPeer.STATE_OPEN
		return wrong

	# Binds a name at its first use.
	func _value(wanted: Variant, session: String) -> Variant:
		if wanted == null or not str(wanted).begins_with("$"):
			return wanted if wanted == null else str(wanted)
		if not bound.has(wanted):
			if (
				session in bound.values()
				or not RegEx.create_from_string("^[\\w-]{16,64}$").search(session)
			):
				return "a new session"
			bound[wanted] = session
		return bound[wanted]

	func step_answers(step: Dictionary) -> String:
		world.answer = step.answers
		return ""

	func step_network(step: Dictionary) -> String:
		var code: int = step.get("code", 1006)
		match step.network:
			"drops":
				socket.end(code, step.get("reason", ""))
			"former ends":
				former.packets.append('{"type":"message","from":"bob","seq":99,"data":"late"}')
				former.end(code, step.get("reason", ""))
			"fails":
				if world.sockets:
					socket = world.sockets.pop_front()
				socket.end(1006, "")
			_:
				return "the network has no such event"
		return ""

	func step_server(step: Dictionary) -> String:
		var ping: String = world.pings.back() if world.pings else ""
		if socket.ready_state == WebSocketPeer.STATE_OPEN:
			socket.packets.append(JSON.stringify(step.server).replace("$ping", ping))
		return ""

	func step_raw(step: Dictionary) -> String:
		socket.packets.append(step.raw)
		return ""

	func step_client(step: Dictionary) -> String:
		if step.client.type == "ping" and not step.client.has("ref"):
			return "" if world.pings else "the client sent no ping"
		return equal(world.said.pop_front(), step.client, "the client's message")

	func step_silent(_step: Dictionary) -> String:
		world.pings.clear()
		return ""

	func step_pings(step: Dictionary) -> String:
		return equal(world.pings.size(), step.pings, "the number of pings")

	func step_closes(step: Dictionary) -> String:
		return equal(socket.closed_with, step.closes.get("code"), "the code of the client's close")

	# ---- time and page ----

	func step_clock(step: Dictionary) -> String:
		var until: float = world.now + step.clock
		lobby._poll()
		while true:
			var next := until
			for timer: Array in lobby._timers.values():
				next = minf(next, timer[0] + START)
			# A frame now and then, so that the client does not take it for a sleep.
			next = maxf(world.now, minf(next, world.now + 1_000))
			var is_last := next == world.now and next == until
			world.now = next
			lobby._poll()
			if is_last and not _is_due():
				return ""
		return ""

	func _is_due() -> bool:
		return lobby._timers.values().any(
			func(timer: Array) -> bool: return timer[0] + START <= world.now
		)

	func step_random(step: Dictionary) -> String:
		world.random = step.random
		return ""

	# Nothing runs for a while. Overdue timers run first, then what has arrived meanwhile.
	func step_sleep(step: Dictionary) -> String:
		world.now += step.sleep
		lobby._poll()
		for message: Dictionary in step.get("arrived", []):
			step_server({"server": message})
		return ""

	func step_event(step: Dictionary) -> String:
		var name: String = step.event
		if name == "hidden" or name == "visible":
			world.is_hidden = name == "hidden"
			name = "visibilitychange"
		lobby._page_event("pagehide" if name == "kept" else name, name == "kept")
		return ""

	# ---- what the application sees ----

	func step_state(step: Dictionary) -> String:
		return equal(Lobby.State.keys()[lobby.state].to_lower(), step.state, "the state")

	func step_hears(step: Dictionary) -> String:
		var heard := events.duplicate()
		events.clear()
		return equal(heard, step.hears, "the events")

	func step_settled(step: Dictionary) -> String:
		var wanted: Dictionary = step.settled.duplicate()
		wanted.erase("id")
		return equal(outcomes.get(step.settled.id), wanted, "the request " + step.settled.id)

	func step_pending(step: Dictionary) -> String:
		for id: String in step.pending:
			if not outcomes.has(id) or outcomes[id] != null:
				return "the request %s is %s" % [id, text(outcomes.get(id))]
		return ""

	func step_members(step: Dictionary) -> String:
		var members := lobby.members.values().map(
			func(who: Lobby.Member) -> String: return who.user + (" (away)" if who.away else "")
		)
		return equal(members, step.members, "the members")

	func step_knows(step: Dictionary) -> String:
		var all: Array = lobby.members.values()
		for name: String in step.knows:
			var got: Variant = lobby.get(name)
			match name:
				"host", "me":
					got = got.user if got else null
				"countdown":
					got = null if got < 0 else got
				"why":
					got = {"code": got.code, "reason": got.reason} if got else null
				"members":
					got = {}
					for who: Lobby.Member in all:
						if who.data:
							got[who.user] = who.data
			var wrong := equal(got, step.knows[name], name)
			if wrong:
				return wrong
		var hosts := all.filter(func(who: Lobby.Member) -> bool: return who.is_host)
		if step.knows.has("host") and hosts != ([lobby.host] if lobby.host else []):
			return "%d members are host" % hosts.size()
		if lobby.me != lobby.members.get(lobby.welcome.get("conn", "")):
			return "`me` is not the own member"
		return ""

	func step_ready(step: Dictionary) -> String:
		return equal(joined, step.ready, "the outcome of join()")

	func step_latency(step: Dictionary) -> String:
		return equal(null if lobby.latency < 0 else lobby.latency, step.latency, "the latency")


func _ready() -> void:
	for file in DirAccess.get_files_at(FOLDER):
		if SKIPPED.has(file.get_basename()):
			print(
				"REPORT ",
				JSON.stringify(
					{"name": file.get_basename(), "skipped": SKIPPED[file.get_basename()]}
				)
			)
			continue
		var vector: Dictionary = Fakes.World.whole(
			JSON.parse_string(FileAccess.get_file_as_string(FOLDER + file))
		)
		var run := Run.new()
		run.tree = self
		var error := run.run(vector.steps)
		run.end()
		print("REPORT ", Lobby._json({"name": vector.name, "error": error}))
	print("REPORT ", JSON.stringify({"done": true}))
