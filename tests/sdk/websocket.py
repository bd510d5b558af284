#!/usr/bin/env python3
"""WebSocket through `relay run`, with the library `websockets` on both sides.

    python tests/sdk/websocket.py path/to/relay

Needs tests/sdk/requirements.txt. The vendor is a WebSocket server over TLS that insists on the credential and
offers compression; the app changes URL and key only. Fails at the first thing that is not as it must be.
"""

import base64
import datetime
import secrets
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from on_disk import Relay


def main() -> int:
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="relay-ws-") as name:
        folder = Path(name)
        credential = "sk-" + secrets.token_urlsafe(30)
        seen: list = []
        vendor = start_vendor(folder, credential, seen)
        relay = Relay(program, folder / "relay")
        try:
            relay.call("init", "--local-issuer", "--dir", str(relay.folder))
            describe(relay, vendor.socket.getsockname()[1], folder / "ca.pem")
            relay.start()
            secret = relay.call(
                "secret", "add", "--customer", "acme", "--integration", "live", "--label", "live",
                "--config", relay.config, stdin=credential + "\n",
            )
            token = relay.call("token", "mint", "--customer", "acme", "--config", relay.config)
            base = relay.url.replace("http://", "ws://")
            conversation(f"{base}/live/{secret}", token, credential)
            as_a_browser(f"{base}/live/{secret}", token, seen)
            off(f"{base}/plain/{secret}", token)
            revoked(relay, f"{base}/live/{secret}", secret, token)
            print(relay.call("audit", "verify", "--config", relay.config).splitlines()[-1])
            relay.stop()
        finally:
            vendor.shutdown()
            if relay.process is not None and relay.process.poll() is None:
                relay.process.kill()
                relay.process.wait()
    return 0


def bearer(token: str) -> dict:
    return {"additional_headers": {"Authorization": f"Bearer {token}"}, "proxy": None}


def conversation(url: str, token: str, credential: str) -> None:
    with connect(f"{url}/echo", **bearer(token), max_size=None) as app:
        assert not app.protocol.extensions, "frames are compressed"
        for message in ("hello", b"\0\1\2", "", "x" * 1_000_000, secrets.token_bytes(1 << 20)):
            app.send(message)
            assert app.recv(timeout=30) == message, "a message came back otherwise"
        app.send(["in ", "three ", "fragments"])
        assert app.recv(timeout=30) == "in three fragments"
        for form in (credential, base64.b64encode(credential.encode()).decode()):
            for said in (f"it is {form}.", f"it is {form}.".encode()):
                app.send(said)
                heard = app.recv(timeout=30)
                heard = heard if isinstance(heard, str) else heard.decode()
                assert form not in heard and "redacted by relay" in heard, "a credential came back"
                assert len(heard) == len(said)
        assert app.ping().wait(10), "no pong"
    assert app.close_code == 1000, app.close_code
    print("websockets: text, binary, empty, 1 MB, fragments, ping, close 1000; the credential comes back redacted")


def as_a_browser(url: str, token: str, seen: list) -> None:
    """A browser can set no header but the list of subprotocols."""
    offered = ["realtime", f"openai-insecure-api-key.{token}"]
    with connect(f"{url}/echo", subprotocols=offered, proxy=None) as app:
        assert app.subprotocol == "realtime", app.subprotocol
    assert token not in str(seen[-1].headers), "the caller's token reached the vendor"
    assert seen[-1].headers["Sec-WebSocket-Protocol"] == "realtime"
    print("subprotocol: the token authenticates and stays behind")


def off(url: str, token: str) -> None:
    try:
        connect(url, **bearer(token))
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused
        assert refused.response.headers["Relay-Error"] == "request_denied"
    else:
        raise AssertionError("a WebSocket was opened where none is allowed")
    print("off: 403 request_denied")


def revoked(relay: Relay, url: str, secret: str, token: str) -> None:
    with connect(f"{url}/echo", **bearer(token)) as app:
        app.send("still there")
        assert app.recv(timeout=30) == "still there"
        relay.call("secret", "disable", secret, "--config", relay.config)
        began = time.monotonic()
        try:
            app.recv(timeout=10)
        except ConnectionClosed as closed:
            assert closed.rcvd is None, "a clean end"
        took = time.monotonic() - began
        assert took < 1, took
    print(f"disable: the open WebSocket breaks in {took * 1000:.0f} ms")


def describe(relay: Relay, port: int, ca: Path) -> None:
    with open(relay.config, "r+") as file:
        text = file.read().split("[integrations.github]")[0]
        for name, more in (("live", "websocket = true\n"), ("plain", "")):
            text += (
                f'[integrations.{name}]\nupstream = "https://localhost:{port}"\n'
                'inject = [{ header = "authorization", value = "Bearer {token}" }]\n'
                f'ca_file = "{ca}"\nprivate_cidrs = ["127.0.0.0/8", "::1/128"]\n{more}\n'
            )
        file.seek(0)
        file.truncate()
        file.write(text)


def start_vendor(folder: Path, credential: str, seen: list):
    def each(connection) -> None:
        try:
            for message in connection:
                connection.send(message)
        except ConnectionClosed:
            # By the revocation, and by nothing else: the app sees to that.
            pass

    def admit(connection, request):
        seen.append(request)
        if request.headers.get("Authorization") != f"Bearer {credential}":
            return connection.respond(401, "not with this key\n")
        return None

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate(folder)
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
    server = serve(
        each, "127.0.0.1", 0, ssl=context, process_request=admit, subprotocols=["realtime"], max_size=None,
        select_subprotocol=lambda _, offered: "realtime" if "realtime" in offered else None,
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def certificate(folder: Path) -> None:
    """A CA of its own and a certificate by it for localhost."""
    now = datetime.datetime.now(datetime.timezone.utc)

    def build(name: str, key, issuer: str):
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, issuer)]
        return (
            x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    ca_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = build("vendor's CA", ca_key, "vendor's CA").add_extension(x509.BasicConstraints(True, None), True)
    leaf = build("localhost", leaf_key, "vendor's CA").add_extension(
        x509.SubjectAlternativeName([x509.DNSName("localhost")]), False
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "leaf.pem").write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / "leaf.key").write_bytes(
        leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


if __name__ == "__main__":
    sys.exit(main())
