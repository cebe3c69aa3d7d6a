extends RefCounted
## What the client sees of the world in tests: a fake clock, network and page.

const START := 1_700_000_000_000.0


class FakeSocket:
	extends RefCounted
	var world: World
	var url: String
	var protocols: PackedStringArray
	var ready_state := WebSocketPeer.STATE_CONNECTING
	var packets: Array[String] = []
	var close_code := -1
	var close_reason := ""
	# What the client has closed it with; `null` without a code.
	var closed_with: Variant = "not closed"

	func poll() -> void:
		pass

	func get_ready_state() -> WebSocketPeer.State:
		return ready_state

	func get_available_packet_count() -> int:
		return packets.size()

	func get_packet() -> PackedByteArray:
		return packets.pop_front().to_utf8_buffer()

	func was_string_packet() -> bool:
		return true

	func get_current_outbound_buffered_amount() -> int:
		return 0

	func send_text(text: String) -> Error:
		if ready_state == WebSocketPeer.STATE_OPEN:
			world.hear(text)
		return OK

	func close(code := 1000) -> void:
		if ready_state != WebSocketPeer.STATE_CLOSED:
			closed_with = null if code < 0 else code
		ready_state = WebSocketPeer.STATE_CLOSED

	func get_close_code() -> int:
		return close_code

	func get_close_reason() -> String:
		return close_reason

	func end(code: int, reason: String) -> void:
		ready_state = WebSocketPeer.STATE_CLOSED
		# As without a close frame.
		close_code = -1 if code == 1006 else code
		close_reason = reason


## What is outside of the client.
class World:
	extends RefCounted
	var now := START
	var random := 0.5
	var is_hidden := false
	var sockets: Array[FakeSocket] = []
	var said: Array = []
	# As it was written, without pings.
	var texts: Array[String] = []
	var pings: Array[String] = []
	var storage := {}
	var answer: Variant = null
	var problem := ""
	var fraction := RegEx.create_from_string("[:\\[,]-?\\d+\\.0*[,}\\]]")
	# What Godot's own parser accepts in a text, but JSON does not.
	var no_json := RegEx.create_from_string(
		"[\\x01-\\x1f]|(?<!\\\\)(\\\\\\\\)*\\\\[^\"\\\\/bfnrtu]"
	)

	func hear(text: String) -> void:
		if fraction.search(text):
			problem = "a whole number with a fraction: " + text
		if no_json.search(text):
			problem = "no JSON: " + text.c_escape()
		var message: Dictionary = whole(JSON.parse_string(text))
		if message.type == "ping" and message.get("ref") is String:
			pings.append(message.ref)
		else:
			said.append(message)
			texts.append(text)

	# The numbers of the transcripts are integers.
	static func whole(value: Variant) -> Variant:
		if value is float and value == int(value):
			return int(value)
		if value is Array:
			return value.map(whole)
		if value is Dictionary:
			var copy := {}
			for name: String in value:
				copy[name] = whole(value[name])
			return copy
		return value


class FakeLobby:
	extends Lobby
	var world: World

	func _ticks() -> float:
		return world.now - START

	func _wall() -> float:
		return world.now

	func _random() -> float:
		return world.random

	func _is_web() -> bool:
		return false

	func _is_hidden() -> bool:
		return world.is_hidden

	func _page_store(method: String, value := "") -> Variant:
		var place := key + url
		match method:
			"getItem":
				return world.storage.get(place, "")
			"setItem":
				world.storage[place] = value
			"removeItem":
				world.storage.erase(place)
		return ""

	func _make_socket(address: String, protocols: PackedStringArray) -> Object:
		var socket := FakeSocket.new()
		socket.world = world
		socket.url = address
		socket.protocols = protocols
		world.sockets.append(socket)
		return socket

	func _http_get(address: String) -> Array:
		if world.answer == null or world.answer.url != address:
			world.problem = "GET " + address
			return [0, ""]
		var given: Dictionary = world.answer
		world.answer = null
		return [given.get("status", 200), given.get("text", JSON.stringify(given.get("body")))]
