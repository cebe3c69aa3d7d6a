"""Signs tokens with PyJWT and connects with them by `websockets`, to a lobbyd with the feature `jwt`. Started by `run`.

    tests/clients/run --signed-tokens [--replay-with path/to/another/lobbyd] path/to/lobbyd

Each algorithm with a new key in each form; the rotation of keys by SIGHUP; the close when a token expires; and tokens that other
keys have signed. The session is recorded, and replayed by the other lobbyd, which may lack the feature.
"""

import argparse
import asyncio
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from attempts import attempts
from lobbyd import Lobbyd, default_binary
from peers import Python
from suite import Tally

SECRET = os.urandom(24).hex()
LIFETIME = 600
CLAIM_SECONDS = 180

PRIVATE = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
AS_JWK = {"RS256": RSAAlgorithm.to_jwk, "ES256": ECAlgorithm.to_jwk, "EdDSA": OKPAlgorithm.to_jwk}


def sign(algorithm, user, key=None, kid=None, **claims):
    key = key or (SECRET if algorithm == "HS256" else PRIVATE[algorithm])
    claims = {"sub": user, "exp": time.time() + LIFETIME, **claims}
    return jwt.encode(claims, key, algorithm, headers=None if kid is None else {"kid": kid})


def pem(algorithm):
    public = PRIVATE[algorithm].public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form).decode()


def jwks(keys):
    """The public keys of these private keys, by their names, and one that lobbyd does not know."""
    known = [{**json.loads(AS_JWK[algorithm](key.public_key())), "kid": kid} for kid, (algorithm, key) in keys.items()]
    return json.dumps({"keys": [*known, {"kty": "AKP", "alg": "ML-DSA-65", "kid": "pq", "pub": "AAAA"}]})


def write(folder, name, text):
    path = os.path.join(folder, name)
    # The server must never read half a file.
    with open(path + ".new", "w") as file:
        file.write(text)
    os.rename(path + ".new", path)
    return path


async def connect(server, token):
    return await Python().open(f"ws://127.0.0.1:{server.port}/ws/chess?token={token}")


async def admitted(server, token, user):
    client = await connect(server, token)
    client.user = user
    await client.expect("welcome", user=user)
    return client


async def refused(server, token, reason="unauthorized"):
    client = await connect(server, token)
    await client.expect_goodbye(4001, reason)


async def each_algorithm_is_accepted(binary, folder, algorithm):
    option, contents = ("--jwt-secret-file", SECRET) if algorithm == "HS256" else ("--jwt-key-file", pem(algorithm))
    with Lobbyd(binary, "--auth", "jwt", option, write(folder, "key", contents), "--jwt-audience", "game") as server:
        client = await admitted(server, sign(algorithm, "ann", aud=["game", "shop"]), "ann")
        await client.close()
        await refused(server, sign(algorithm, "ann"))
        await refused(server, sign(algorithm, "ann", aud="shop"))
        await refused(server, sign(algorithm, "ann", aud="game", exp=time.time() - 60), "token_expired")
        await refused(server, sign(algorithm, "ann", aud="game", nbf=time.time() + 60))
        await refused(server, sign("HS256", "ann", key="of nobody".ljust(32), aud="game"))
        await refused(server, jwt.encode({"sub": "ann", "exp": time.time() + 60, "aud": "game"}, None, "none"))


async def keys_rotate_on_sighup(binary, folder):
    old, new = PRIVATE["RS256"], rsa.generate_private_key(65537, 2048)
    keys = write(folder, "keys", jwks({"old": ("RS256", old), "es": ("ES256", PRIVATE["ES256"])}))

    def rotate(text, words):
        write(folder, "keys", text)
        os.kill(server.pid, signal.SIGHUP)
        server.wait_for_log(words, 30)

    with Lobbyd(binary, "--auth", "jwt", "--jwt-jwks-file", keys) as server:
        by_old, by_new = sign("RS256", "ann", old, "old"), sign("RS256", "ann", new, "new")
        member = await admitted(server, by_old, "ann")
        await (await admitted(server, sign("ES256", "bob", kid="es"), "bob")).close()
        await refused(server, by_new)
        rotate(jwks({"old": ("RS256", old), "new": ("RS256", new)}), "2 keys read")
        rotate(jwks({"new": ("RS256", new)}), "1 keys read")
        rotate("{", "the old keys stay in force")
        await refused(server, by_old)
        await refused(server, sign("ES256", "bob", kid="es"))
        # Members that are connected stay.
        await member.expect("presence_state")
        await member.say("ping", ref=1)
        while json.loads(await member.next())["type"] != "pong":
            pass
        await (await admitted(server, by_new, "ann")).close()


async def members_are_closed_when_their_token_expires(binary, folder):
    flags = ["--auth", "jwt", "--jwt-key-file", write(folder, "key", pem("EdDSA")), "--jwt-leeway", "0s", "--token-grace", "0s"]
    with Lobbyd(binary, *flags) as server:
        for number, attempt in enumerate(attempts()):
            # On a busy machine the first token has expired when the server reads it.
            end = time.time() + 1.5 * 4 ** number
            client = await connect(server, sign("EdDSA", "ann", exp=end))
            first = json.loads(await client.next(60))["type"]
            attempt.check(first == "welcome", f"the first message is a {first}")
            if first != "welcome":
                continue
            await client.expect("presence_state")
            goodbye, closed = json.loads(await client.next(60)), await client.next(60)
            assert (goodbye["type"], goodbye["reason"], closed.code) == ("goodbye", "token_expired", 4001), (goodbye, closed)
            late = time.time() - end
            assert late > -0.1, f"closed {-late:.2f} s before the time that the token names"
            attempt.check(late < 1, f"closed {late:.2f} s after the time that the token names")


async def a_lobbyd_without_the_feature_replays_the_session(binary, folder, other):
    journal = os.path.join(folder, "journal")
    flags = ["--auth", "jwt", "--jwt-key-file", write(folder, "key", pem("RS256")), "--journal", journal]
    token = sign("RS256", "ann", role="host", data={"elo": 1850})
    with Lobbyd(binary, *flags) as server:
        client = await admitted(server, token, "ann")
        await client.say("broadcast", data="hello")
        await refused(server, token[:-4] + "AAAA")
        await client.close()
        server.terminate()
        assert await asyncio.to_thread(server.exit_code, 60) == 0
        assert token not in server.log()
    segments = glob.glob(journal + ".*")
    assert segments
    for segment in segments:
        with open(segment, "rb") as file:
            assert token.encode()[:40] not in file.read()
    subprocess.run([other, "replay", journal], check=True, stdout=subprocess.DEVNULL)


async def the_example_of_the_guide_is_accepted(binary, folder):
    page = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/guide/security.md")
    with open(page, encoding="utf-8") as file:
        code = file.read().split("```python\n")[1].split("```")[0]
    secret = write(folder, "secret", SECRET + "\n")
    token = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    with Lobbyd(binary, "--auth", "jwt", "--jwt-secret-file", secret) as server:
        await (await admitted(server, token, "ann")).close()


async def main(options):
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="lobbyd-jwt-") as folder:
        for algorithm in ["HS256", *PRIVATE]:
            claim = each_algorithm_is_accepted
            await tally.check(f"{claim.__name__} [{algorithm}]", claim(options.binary, folder, algorithm), CLAIM_SECONDS)
        for claim in [the_example_of_the_guide_is_accepted, keys_rotate_on_sighup, members_are_closed_when_their_token_expires]:
            await tally.check(claim.__name__, claim(options.binary, folder), CLAIM_SECONDS)
        claim = a_lobbyd_without_the_feature_replays_the_session
        await tally.check(claim.__name__, claim(options.binary, folder, options.replay_with or options.binary), CLAIM_SECONDS)
    return tally.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--replay-with")
    parser.add_argument("binary", nargs="?", default=default_binary())
    sys.exit(asyncio.run(main(parser.parse_args())))
