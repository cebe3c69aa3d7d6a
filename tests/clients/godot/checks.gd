extends Node
## Checks lobby.gd beyond the transcripts of tests/vectors/. Prints a JSON object for each claim.

const Fakes := preload("res://fakes.gd")

var world: Fakes.World
var lobby: Fakes.FakeLobby
var heard: Array = []
var outcomes: Array = []
var wrong := ""


func _ready() -> void:
	for method in get_method_list():
		if not method.name.begins_with("claim_"):
			continue
		world = Fakes.World.new()
		heard = []
		outcomes = []
		wrong = ""
		lobby = _lobby()
		await call(method.name)
		if world.problem:
			wrong = world.problem
		if is_instance_valid(lobby):
			lobby.free()
		print(
			"REPORT ", JSON.stringify({"name": method.name.trim_prefix("claim_"), "error": wrong})
		)
	print("REPORT ", JSON.stringify({"done": true}))


func _lobby() -> Fakes.FakeLobby:
	var made := Fakes.FakeLobby.new()
	made.world = world
	add_child(made)
	made.set_process(false)
	made.message_received.connect(
		func(type: String, data: Variant, _meta: Dictionary) -> void: heard.append([type, data])
	)
	return made


func _equal(got: Variant, wanted: Variant, what: String) -> void:
	var texts := [got, wanted].map(
		func(value: Variant) -> String: return JSON.stringify(value, "", true, true)
	)
	if texts[0] != texts[1] and not wrong:
		wrong = "%s: %s instead of %s" % [what, texts[0], texts[1]]


func _welcome(fields := {}) -> Fakes.FakeSocket:
	var socket: Fakes.FakeSocket = world.sockets.pop_back()
	socket.ready_state = WebSocketPeer.STATE_OPEN
	var welcome := {
		"type": "welcome",
		"conn": "s1",
		"user": "ann",
		"lobby": "chess",
		"epoch": 7,
		"seq": 1,
		"resumed": false,
		"recovered": false,
		"server_time": Fakes.START,
		"limits": {"max_message_bytes": 65536},
		"away_ms": 30000,
		"done": 0,
		"refused": "0",
		"n": 0,
	}
	welcome.merge(fields, true)
	_server(socket, welcome)
	_server(socket, {"type": "presence_state", "seq": 1, "users": [{"user": "ann", "conn": "s1"}]})
	return socket


func _server(socket: Fakes.FakeSocket, message: Dictionary) -> void:
	socket.packets.append(JSON.stringify(message))
	lobby._poll_sockets()


func _request(payload: Variant, then := Callable()) -> void:
	var result: Lobby.Result = await lobby.request("move", payload)
	outcomes.append("ok" if result.ok else result.error)
	if then.is_valid():
		then.call()


func _lose(socket: Fakes.FakeSocket) -> void:
	socket.end(1006, "")
	lobby._poll_sockets()
	world.now += 300
	lobby._poll()


func claim_whole_numbers_are_integers_on_both_ways() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	lobby.send("move", {"x": 3.0, "y": -2.5, "big": 9007199254740991, "list": [1.0, {"z": 4.0}]})
	lobby.send("scores", PackedFloat32Array([1.0, 0.5]))
	lobby.send("broken", [INF, NAN])
	_equal(
		world.texts,
		[
			'{"type":"move","x":3,"y":-2.5,"big":9007199254740991,"list":[1,{"z":4}]}',
			'{"type":"scores","data":[1,0.5]}',
			'{"type":"broken","data":[null,null]}'
		],
		"what is sent"
	)
	_server(
		socket,
		{"type": "message", "from": "bob", "seq": 2, "data": {"type": "move", "n": 3, "f": 0.5}}
	)
	var types := [typeof(heard[0][1].n), typeof(heard[0][1].f)]
	_equal(types, [TYPE_INT, TYPE_FLOAT], "the types of what is received")
	socket.packets.append('{"type":"message","from":"bob","seq":3,"data":9007199254740991}')
	lobby._poll_sockets()
	_equal(heard[1], ["", 9007199254740991], "the largest exact integer")


func claim_a_full_buffer_gives_the_connection_up_before_what_may_be_missing() -> void:
	lobby.inbound_buffer_size = 1000
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	for n in range(2, 12):
		var message := {"type": "message", "from": "bob", "seq": n, "data": "x".repeat(120)}
		socket.packets.append(JSON.stringify(message))
	lobby._poll_sockets()
	_equal(heard.size(), 4, "messages in three quarters of the buffer")
	_equal(lobby.state, Lobby.State.WAITING, "the state")
	_equal(socket.closed_with, null, "a close without a code")
	world.now += 300
	lobby._poll()
	_equal(world.sockets[0].url.contains("&seq=5&"), true, world.sockets[0].url)


func claim_too_many_packets_give_the_connection_up() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	for n in 4095:
		socket.packets.append("{}")
	lobby._poll_sockets()
	_equal(lobby.state, Lobby.State.WAITING, "the state")


func claim_packets_before_a_close_are_read() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	socket.packets.append('{"type":"message","from":"bob","seq":2,"data":"last words"}')
	socket.packets.append('{"type":"goodbye","code":4003,"reason":"kicked","reconnect":false}')
	socket.end(4003, "kicked")
	lobby._poll_sockets()
	_equal(heard, [["", "last words"]], "messages")
	_equal(lobby.state, Lobby.State.CLOSED, "the state")


func claim_a_caller_that_sends_when_it_is_told_does_not_overtake_what_is_sent_again() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	_request({"n": 1}, func() -> void: _request({"n": 4}))
	_request({"n": 2})
	_request({"n": 3})
	world.said.clear()
	_lose(socket)
	_welcome({"resumed": true, "recovered": true, "done": 1})
	_equal(
		world.said.map(func(said: Dictionary) -> Array: return [said.ref, said.n]),
		[[2, 2], [3, 3], [4, 4]],
		"numbers and payloads"
	)


func claim_a_sleep_is_noticed_by_its_length() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	_welcome()
	world.now += 100
	lobby._poll()
	world.pings.clear()
	world.now += 5_001
	lobby._poll()
	_equal(world.pings.size(), 1, "pings")
	world.now += 3_000
	lobby._poll()
	_equal(lobby.state, Lobby.State.WAITING, "the state without an answer")


func claim_a_listener_may_leave() -> void:
	var states := []
	lobby.state_changed.connect(
		func(state: Lobby.State, _why: Dictionary) -> void: states.append(Lobby.State.keys()[state])
	)
	lobby.member_joined.connect(func(_member: Lobby.Member) -> void: lobby.leave())
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	var users := [{"user": "ann", "conn": "s1"}, {"user": "bob", "conn": "s2"}]
	socket.packets.append(JSON.stringify({"type": "presence_state", "seq": 2, "users": users}))
	socket.packets.append('{"type":"message","from":"bob","seq":3,"data":"too late"}')
	lobby._poll_sockets()
	_equal(states, ["CONNECTING", "OPEN", "CLOSED"], "the states")
	_equal(heard, [], "messages")
	_equal(socket.closed_with, 1000, "the code")


func claim_a_listener_may_join_another_lobby() -> void:
	lobby.join("ws://lobby.example/ws/a")
	var first := _welcome({"lobby": "a"})
	var users := [{"user": "ann", "conn": "s1"}, {"user": "bob", "conn": "s2"}]
	_server(first, {"type": "presence_state", "seq": 2, "users": users})
	var join := func(_member: Lobby.Member, _reason: String) -> void:
		lobby.join("ws://lobby.example/ws/b")
	lobby.member_left.connect(join, CONNECT_ONE_SHOT)
	# The rest of the list, and what follows it, are about the first lobby.
	users = [{"user": "ann", "conn": "s1"}, {"user": "cy", "conn": "s3"}]
	first.packets.append(JSON.stringify({"type": "presence_state", "seq": 3, "users": users}))
	first.packets.append('{"type":"message","from":"cy","seq":4,"data":"too late"}')
	lobby._poll_sockets()
	_equal(first.closed_with, 1000, "the code of the first connection")
	_equal(
		[lobby.state, lobby.members.size(), lobby.seq],
		[Lobby.State.CONNECTING, 0, 0],
		"what is known of the second lobby"
	)
	_equal(world.sockets.size(), 1, "connections to the second lobby")
	_welcome({"lobby": "b"})
	_equal([lobby.state, lobby.code, heard], [Lobby.State.OPEN, "b", []], "the second lobby")


func claim_a_lobby_can_be_joined_again() -> void:
	var first := []
	var join := func() -> void: first.append((await lobby.join("ws://lobby.example/ws/a")).error)
	join.call()
	var former: String = world.sockets[0].url
	var socket := _welcome()
	_server(socket, {"type": "message", "from": "bob", "seq": 2, "data": 1})
	lobby.join("ws://lobby.example/ws/b")
	_equal(socket.closed_with, 1000, "the code of the first connection")
	_equal([lobby.members.size(), lobby.code, lobby.seq], [0, "", 0], "what is known")
	var address: String = world.sockets[0].url
	_equal(address.begins_with("ws://lobby.example/ws/b?session="), true, address)
	_equal(address.get_slice("=", 1) == former.get_slice("=", 1), false, "the same session")
	_welcome({"lobby": "b"})
	_equal([lobby.state, lobby.code], [Lobby.State.OPEN, "b"], "the second lobby")


func claim_join_returns_why_it_failed() -> void:
	var errors := []
	var join := func() -> void: errors.append((await lobby.join("ws://lobby.example/ws/a")).error)
	join.call()
	var socket: Fakes.FakeSocket = world.sockets.pop_back()
	socket.ready_state = WebSocketPeer.STATE_OPEN
	_server(socket, {"type": "goodbye", "code": 4002, "reason": "lobby_full", "reconnect": false})
	socket.end(4002, "lobby_full")
	lobby._poll_sockets()
	join.call()
	lobby.leave()
	_equal(errors, ["lobby_full", "left"], "errors")


func claim_fields_of_a_wrong_type_do_not_end_the_client() -> void:
	var states := []
	lobby.state_changed.connect(
		func(state: Lobby.State, why: Dictionary) -> void: states.append([state, why.get("code")])
	)
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	var goodbye := {"type": "goodbye", "code": 4150, "reason": 7, "url": [], "reconnect": "no"}
	goodbye["retry_after_ms"] = "soon"
	_server(socket, goodbye)
	socket.end(4150, "")
	lobby._poll_sockets()
	_equal(states.back(), [Lobby.State.WAITING, 4150], "the state")
	world.now += 300
	lobby._poll()
	socket = world.sockets.pop_back()
	socket.ready_state = WebSocketPeer.STATE_OPEN
	_server(socket, {"type": "welcome", "conn": "s1", "epoch": 7})
	world.now += 15_001
	lobby._poll()
	_equal(states.back(), [Lobby.State.WAITING, 1006], "the state after a welcome without its time")


func claim_a_game_can_wake_the_client() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	world.pings.clear()
	lobby.wake()
	_equal(world.pings.size(), 1, "pings")
	socket.end(1006, "")
	lobby._poll_sockets()
	lobby.wake()
	lobby._poll()
	_equal(world.sockets.size(), 1, "attempts without a wait")


func claim_a_game_that_is_started_again_comes_back_to_its_seat() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	var session := lobby.session
	lobby.leave(true)
	_equal([world.said, socket.closed_with], [[], 1001], "the end of the first game")
	lobby.free()
	lobby = _lobby()
	lobby.was = session
	lobby.join("ws://lobby.example/ws/chess")
	_equal(lobby.session, session, "the session before the first welcome")
	var address: String = world.sockets[0].url
	_equal(address.contains("&was=" + session), true, address)
	socket = _welcome({"resumed": true})
	_equal([lobby.session == session, lobby.was], [false, ""], "the session after it")
	_lose(socket)
	_equal(world.sockets[0].url.contains("was="), false, "the next attempt names it")


func claim_an_address_that_can_never_work_is_refused_and_another_one_is_not() -> void:
	var errors := []
	var start := func(method: Callable, address: String) -> void:
		errors.append((await method.call(address)).error)
	start.call(lobby.join, "wss://u:p@lobby.example:99999/ws/chess")
	_equal([lobby.state, lobby.why.reason], [Lobby.State.CLOSED, "bad_url"], "the state")
	start.call(lobby.list, "file://lobby.example/ws/~lobbies")
	start.call(lobby.find, "lobby.example")
	_equal(errors, ["bad_url", "bad_url", "bad_url"], "errors")
	for host in ["game123456.example", "[::1]:9001", "u:p@127.0.0.1:65535", "[2001:db8::1]"]:
		lobby.join("ws://%s/ws/chess" % host)
		_equal(world.sockets.size(), 1, "connections to " + host)
		world.sockets.clear()


func claim_a_list_from_another_server_is_unavailable() -> void:
	var results := []
	var find := func() -> void: results.append(await lobby.find("ws://lobby.example/ws/~lobbies"))
	for text in ["<!doctype html>", "", "[]", "{}", '{"lobbies":{}}', '{"lobbies":[]}']:
		world.answer = {"url": "http://lobby.example/lobbies", "text": text}
		find.call()
	_equal(
		results.map(func(result: Lobby.Result) -> String: return result.error),
		["unavailable", "unavailable", "unavailable", "unavailable", "unavailable", ""],
		"errors"
	)
	_equal(results[0].fields, {"status": 200}, "fields")


func claim_a_heartbeat_can_be_turned_off() -> void:
	lobby.heartbeat = 0.0
	lobby.join("ws://lobby.example/ws/chess")
	_welcome()
	world.pings.clear()
	for second in 60:
		world.now += 1_000
		lobby._poll()
	_equal([lobby.state, world.pings.size()], [Lobby.State.OPEN, 0], "the state and pings")


func claim_a_freed_node_leaves() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome()
	_request({"n": 1})
	lobby.free()
	_equal(world.said.back(), {"type": "leave"}, "the last words")
	_equal(socket.closed_with, 1000, "the code")
	_equal(outcomes, ["closed"], "the request")


func claim_a_token_may_come_later_or_fail() -> void:
	var answers := [null, "Grüße"]
	var token := func() -> Variant:
		await get_tree().process_frame
		return answers.pop_front()
	lobby.join("ws://lobby.example/ws/chess", token)
	_equal(world.sockets.size(), 0, "connections before the token")
	await get_tree().process_frame
	await get_tree().process_frame
	_equal([world.sockets.size(), lobby.state], [0, Lobby.State.WAITING], "without a token")
	world.now += 300
	lobby._poll()
	await get_tree().process_frame
	await get_tree().process_frame
	_equal(world.sockets.size(), 1, "connections with the token")
	_equal(world.sockets[0].protocols[1], "base64url.bearer.lobby.R3LDvMOfZQ", "the subprotocol")


func claim_what_cannot_be_sent_is_an_error() -> void:
	_request({})
	lobby.join("ws://lobby.example/ws/chess")
	_welcome()
	_request({"type": "x"})
	_request("x".repeat(65_536))
	_equal(lobby.send("move", {"ref": 1}), false, "send() with a `ref`")
	_equal(lobby.send("move", "x".repeat(65_536)), false, "send() of too much")
	for n in 64:
		_request({"n": n})
	_request({})
	_equal(outcomes, ["closed", "bad_payload", "too_large", "queue_full"], "errors")
	_equal(world.said.size(), 16, "requests on their way")


func claim_a_single_request_may_be_larger_than_the_queue() -> void:
	lobby.join("ws://lobby.example/ws/chess")
	var socket := _welcome({"limits": {"max_message_bytes": 200_000}})
	_request("x".repeat(100_000))
	_request("small")
	_server(socket, {"type": "ack", "ref": 1})
	_request("small")
	_request("x".repeat(100_000))
	_request("x".repeat(200_000))
	_equal(outcomes, ["queue_full", "ok", "queue_full", "too_large"], "outcomes")
	var sizes := world.said.map(func(said: Dictionary) -> int: return said.data.length())
	_equal(sizes, [100_000, 5], "requests that were sent")


func claim_signals_before_the_list_wait_for_the_caller_of_join() -> void:
	var later := []
	var join := func() -> void:
		await lobby.join("ws://lobby.example/ws/chess")
		lobby.message_received.connect(
			func(_type: String, data: Variant, _meta: Dictionary) -> void: later.append(data)
		)
	join.call()
	var socket: Fakes.FakeSocket = world.sockets.back()
	socket.ready_state = WebSocketPeer.STATE_OPEN
	var welcome := {"type": "welcome", "conn": "s1", "user": "ann", "epoch": 7, "server_time": 0}
	socket.packets.append(JSON.stringify(welcome))
	socket.packets.append('{"type":"direct","from":"bob","n":1,"data":"early"}')
	lobby._poll_sockets()
	_equal(heard, [], "messages before the list")
	_server(socket, {"type": "presence_state", "seq": 1, "users": [{"user": "ann", "conn": "s1"}]})
	_equal(later, ["early"], "messages after it")
