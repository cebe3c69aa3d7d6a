"""A backend for lobbyd: python3 backend.py PORT SECRET_FILE"""
import hashlib, hmac, http.server, json, re, sys, time
SECRET = open(sys.argv[2], "rb").read().strip()
if len(SECRET) < 16: sys.exit("the secret must have at least 16 bytes")
USERS = {"token-of-ann": {"allow": True, "user": "ann", "tier": "pro", "role": "host", "data": {"rating": 1850}}}
last_seq = {}  # by boot

class Backend(http.server.BaseHTTPRequestHandler):
    timeout = 5  # seconds, for each read

    def do_POST(self):
        length, sent_at = self.headers.get("Content-Length", ""), self.headers.get("X-Lobbyd-Timestamp", "")
        if not re.fullmatch("[0-9]{1,6}", length): return self.send_error(413)  # enough for max_header_bytes up to 200 KiB
        body = self.rfile.read(int(length))
        expected = "sha256=" + hmac.new(SECRET, f"{sent_at}.".encode() + body, hashlib.sha256).hexdigest()
        is_signed = hmac.compare_digest(expected.encode(), self.headers.get("X-Lobbyd-Signature", "").encode())
        if not is_signed or abs(time.time() * 1000 - int(sent_at)) > 60_000: return self.send_error(401)
        call = json.loads(body)
        answer = USERS.get(call["token"], {"allow": False, "reason": "unauthorized"}) if call["type"] == "connect" else {}
        for event in call.get("events", []):
            if event["seq"] > last_seq.get(event["boot"], 0):  # otherwise it is repeated
                last_seq[event["boot"]] = event["seq"]
                print(json.dumps(event), flush=True)
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(answer).encode())
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Backend).serve_forever()
