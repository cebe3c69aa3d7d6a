extends Node
## Members of lobbies, which the page commands by `act(text)`: a JSON object with `id`, `name` and
## `values`. Each command is a method here; its result goes to `answer(id, text)`.

var page := JavaScriptBridge.get_interface("window")
var callback := JavaScriptBridge.create_callback(_act)
var lobbies := {}
var heard := {}


func _ready() -> void:
	page.act = callback
	print("REPORT ", JSON.stringify({"ready": true}))


func _act(values: Array) -> void:
	var asked: Dictionary = JSON.parse_string(values[0])
	var result: Variant = await callv("do_" + asked.name, asked.values)
	page.answer(asked.id, JSON.stringify(result, "", false, true))


func _make(user: String) -> Lobby:
	var lobby := Lobby.new()
	lobbies[user] = lobby
	heard[user] = []
	add_child(lobby)
	var note := func(event: Array) -> void: heard[user].append(event)
	lobby.message_received.connect(
		func(type: String, data: Variant, meta: Dictionary) -> void:
			note.call(["message", meta.from, type, data, type_string(typeof(data))])
	)
	lobby.bytes_received.connect(
		func(bytes: PackedByteArray) -> void: note.call(["bytes", bytes.size(), bytes.hex_encode()])
	)
	lobby.member_joined.connect(func(who: Lobby.Member) -> void: note.call(["join", who.user]))
	lobby.member_left.connect(
		func(who: Lobby.Member, why: String) -> void: note.call(["leave", who.user, why])
	)
	lobby.member_away.connect(func(who: Lobby.Member) -> void: note.call(["away", who.user]))
	lobby.member_back.connect(func(who: Lobby.Member) -> void: note.call(["back", who.user]))
	lobby.state_changed.connect(
		func(state: Lobby.State, _why: Dictionary) -> void:
			note.call(["state", Lobby.State.keys()[state].to_lower()])
	)
	lobby.gap_detected.connect(func() -> void: note.call(["gap"]))
	lobby.data_changed.connect(
		func(changes: Dictionary, who: Lobby.Member, _meta: Dictionary) -> void:
			note.call(["data", changes, who.user if who else null])
	)
	lobby.started.connect(func(seats: Array) -> void: note.call(["start", seats.size()]))
	lobby.lobbies_changed.connect(
		func(all: Array, _more: bool) -> void: note.call(["lobbies", all.size()])
	)
	return lobby


static func _outcome(result: Lobby.Result) -> Dictionary:
	return {
		"ok": result.ok, "error": result.error, "message": result.message, "fields": result.fields
	}


func do_join(user: String, url: String, is_later: bool) -> Dictionary:
	var token := func() -> String:
		await get_tree().create_timer(0.05).timeout
		return user
	var lobby := _make(user)
	lobby.key = user
	lobby.request_timeout = 60.0
	return _outcome(await lobby.join(url, token if is_later else user))


func do_list(user: String, url: String, filters: Dictionary) -> Dictionary:
	return _outcome(await _make(user).list(url, filters))


func do_find(user: String, url: String, filters: Dictionary) -> Dictionary:
	return _outcome(await lobbies[user].find(url, filters))


func do_request(user: String, type: String, payload: Variant) -> Dictionary:
	return _outcome(await lobbies[user].request(type, payload))


## Requests with the numbers from 0 on, without waiting for answers in between; returns their
## outcomes.
func do_count(user: String, to: int, seconds: float) -> Array:
	var outcomes := []
	for n in to:
		# A client keeps 64 requests.
		while n - outcomes.size() >= 60:
			await get_tree().process_frame
		var ask := func() -> void:
			var result: Lobby.Result = await lobbies[user].request("count", {"n": n}, 60.0)
			outcomes.append("ok" if result.ok else result.error)
		ask.call()
		await get_tree().create_timer(seconds / to).timeout
	while outcomes.size() < to:
		await get_tree().process_frame
	return outcomes


func do_send(user: String, type: String, payload: Variant) -> bool:
	return lobbies[user].send(type, payload)


func do_send_bytes(user: String, size: int) -> bool:
	var bytes := PackedByteArray()
	for n in size:
		bytes.append(n % 256)
	return lobbies[user].send_bytes(bytes)


func do_set(user: String, changes: Dictionary, is_own: bool) -> Dictionary:
	var lobby: Lobby = lobbies[user]
	if is_own:
		return _outcome(await lobby.me.set_data(changes))
	return _outcome(await lobby.set_data(changes))


func do_control(user: String, word: String, values: Array) -> Dictionary:
	return _outcome(await lobbies[user].callv(word, values))


func do_leave(user: String) -> void:
	lobbies[user].leave()


func do_free(user: String) -> void:
	lobbies[user].free()


func do_polls(user: String, is_on: bool) -> void:
	lobbies[user].set_process(is_on)


func do_unread(user: String) -> int:
	return lobbies[user]._link.socket.get_available_packet_count()


func do_frames() -> int:
	return Engine.get_process_frames()


func do_knows(user: String) -> Dictionary:
	var lobby: Lobby = lobbies[user]
	var members := lobby.members.values().map(func(who: Lobby.Member) -> String: return who.user)
	return {
		"state": Lobby.State.keys()[lobby.state].to_lower(),
		"members": members,
		"host": lobby.host.user if lobby.host else null,
		"me": lobby.me.user if lobby.me else null,
		"conn": lobby.welcome.get("conn"),
		"code": lobby.code,
		"seq": lobby.seq,
		"data": lobby.data,
		"settings": lobby.settings,
		"latency": lobby.latency,
		"now": lobby.now(),
		"lobbies": lobby.lobbies,
	}


func do_heard(user: String) -> Array:
	return heard[user]
