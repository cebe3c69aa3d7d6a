"""A backend for lobbyd: python3 backend.py PORT SECRET_FILE"""
import hashlib, hmac, http.server, json, sys, time

SECRET = open(sys.argv[2], "rb").read().strip()
USERS = {"token-of-ann": {"allow": True, "user": "ann", "tier": "pro", "role": "host", "data": {"rating": 1850}}}

class Backend(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent_at = self.headers["X-Lobbyd-Timestamp"]
        expected = "sha256=" + hmac.new(SECRET, sent_at.encode() + b"." + body, hashlib.sha256).hexdigest()
        is_signed = hmac.compare_digest(expected, self.headers["X-Lobbyd-Signature"])
        if not is_signed or abs(time.time() * 1000 - int(sent_at)) > 60_000:
            return self.send_error(401)
        call = json.loads(body)
        if call["type"] == "connect":
            answer = USERS.get(call["token"], {"allow": False, "reason": "unauthorized"})
        else:
            answer = {}
            for event in call["events"]:
                print(json.dumps(event), flush=True)
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Backend).serve_forever()
