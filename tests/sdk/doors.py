#!/usr/bin/env python3
"""SDKs that take no path in their address, through listeners of an integration's own.

    python tests/sdk/doors.py path/to/relay

simple-salesforce insists on https and drops a path, so it has a listener with TLS; grpcio knows only host and
port, so it has one, in the clear and with TLS, and streams both ways. The vendors here are a small HTTPS
server and a grpcio server, which tell whether they were given the injected credential and never the caller's
token. Needs tests/sdk/requirements.txt and openssl.
"""

import json
import os
import secrets
import ssl
import sys
import tempfile
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import grpc
import requests
from simple_salesforce import Salesforce

from on_disk import Relay, free_port
from paging import Vendor, identity

MESSAGES = 50


class Queries(BaseHTTPRequestHandler):
    """As much of Salesforce as a query with a second page needs."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, str(self.headers)))
        first = "/query/?q=" in self.path
        body = {"totalSize": 2, "done": not first, "records": [{"Id": "1" if first else "2"}]}
        if first:
            body["nextRecordsUrl"] = "/services/data/v59.0/query/01g-2000"
        sent = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_) -> None:
        pass


class Echo(grpc.GenericRpcHandler):
    """Streams every message back, and tells in trailers what it was called with."""

    def __init__(self) -> None:
        self.seen = []

    def service(self, details):
        self.seen.append(dict(details.invocation_metadata))

        def stream(messages, context):
            context.set_trailing_metadata((("x-method", details.method),))
            for message in messages:
                if message == b"fail":
                    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
                yield message

        return grpc.stream_stream_rpc_method_handler(stream)


def main() -> int:
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="relay-doors-") as name:
        folder = Path(name)
        ca, certificate = identity(folder)
        credential = "sk-" + secrets.token_urlsafe(30)
        crm = Vendor(certificate, Queries)
        echo = Echo()
        server, port = grpc_vendor(folder, echo)
        relay = Relay(program, folder / "relay")
        try:
            doors, added, token = set_up(relay, folder, credential, crm.origin, f"https://localhost:{port}")
            salesforce(doors["crm"], ca, relay, token, added["crm"], crm, credential)
            for plain in (True, False):
                called(doors["plain" if plain else "secure"], plain, ca, token, added)
            assert len(echo.seen) >= 4, echo.seen
            for metadata in echo.seen:
                assert metadata["authorization"] == f"Bearer {credential}", "the credential was not there"
                assert token not in str(metadata) and "relay-secret" not in metadata
            print(relay.call("audit", "verify", "--config", relay.config).splitlines()[-1])
            relay.stop()
        finally:
            server.stop(None)
            if relay.process is not None and relay.process.poll() is None:
                relay.process.kill()
                relay.process.wait()
    return 0


def grpc_vendor(folder: Path, echo: Echo) -> tuple:
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(echo,))
    key, chain = (folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes()
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, chain)]))
    server.start()
    return server, port


def set_up(relay: Relay, folder: Path, credential: str, crm: str, calls: str) -> tuple:
    relay.call("init", "--local-issuer", "--dir", str(relay.folder))
    doors = {name: free_port() for name in ("crm", "plain", "secure")}
    text = Path(relay.config).read_text().split("[integrations.")[0].replace(
        "[server]\n",
        f'[server]\ntls = {{ certificate = "{folder}/cert.pem", key = "{folder}/key.pem" }}\n', 1)
    for name, origin, tls in (("crm", crm, "tls:"), ("plain", calls, ""), ("secure", calls, "tls:")):
        text += (
            f'[integrations.{name}]\nupstream = "{origin}"\nlisten = "{tls}127.0.0.1:{doors[name]}"\n'
            f'inject = [{{ header = "authorization", value = "Bearer {{token}}" }}]\n'
            f'ca_file = "{folder}/ca.pem"\nprivate_cidrs = ["127.0.0.0/8", "::1/128"]\n\n'
        )
    Path(relay.config).write_text(text)
    relay.start()
    add = ("secret", "add", "--customer", "acme", "--label", "x", "--config", relay.config, "--integration")
    added = {name: relay.call(*add, name, stdin=credential) for name in doors}
    return doors, added, relay.call("token", "mint", "--customer", "acme", "--config", relay.config)


def salesforce(port: int, ca: Path, relay: Relay, token: str, secret: str, crm: Vendor, credential: str) -> None:
    session = requests.Session()
    # The environment's bundle, if there is one, comes before a session's own.
    os.environ["REQUESTS_CA_BUNDLE"] = session.verify = str(ca)
    session.headers["Relay-Secret"] = secret
    sf = Salesforce(instance_url=f"https://localhost:{port}", session_id=token, session=session)
    found = list(sf.query_all_iter("SELECT Id FROM Account"))
    assert [record["Id"] for record in found] == ["1", "2"], found
    assert len(crm.seen) == 2 and all(credential in head and token not in head for _, head in crm.seen), crm.seen
    assert crm.seen[1][0].startswith("/services/data/v59.0/query/01g-2000"), crm.seen[1][0]
    print(f"simple-salesforce: {len(found)} records over {len(crm.seen)} pages, by an https listener of its own")


def called(port: int, plain: bool, ca: Path, token: str, added: dict) -> None:
    secret = added["plain" if plain else "secure"]
    if plain:
        channel = grpc.insecure_channel(f"localhost:{port}")
    else:
        channel = grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(ca.read_bytes()))
    metadata = (("authorization", f"Bearer {token}"), ("relay-secret", secret))
    with channel:
        both = channel.stream_stream("/pkg.Echo/Both")
        turn, asked = threading.Semaphore(1), []

        def messages():
            # Each waits for the answer to the one before: a relay that held one back would stand still.
            for number in range(MESSAGES):
                assert turn.acquire(timeout=20), "an answer was held back"
                asked.append(number.to_bytes(2, "big") * 700)
                yield asked[-1]

        call = both(messages(), metadata=metadata, timeout=60)
        answers = []
        for answer in call:
            answers.append(answer)
            turn.release()
        assert answers == asked and len(answers) == MESSAGES
        assert call.code() == grpc.StatusCode.OK
        assert ("x-method", "/pkg.Echo/Both") in call.trailing_metadata(), call.trailing_metadata()
        failed = both(iter([b"fail"]), metadata=metadata, timeout=20)
        try:
            list(failed)
            raise SystemExit("the vendor's failure did not come through")
        except grpc.RpcError as error:
            assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing"), error
        # relay's own refusals reach the client as an error too.
        try:
            list(both(iter([b"x"]), metadata=metadata[1:], timeout=20))
            raise SystemExit("a call without a token was not refused")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
    print(f"grpcio: {len(answers)} messages each way, trailers, a failure and a refusal, {'in the clear' if plain else 'over TLS'}")


if __name__ == "__main__":
    sys.exit(main())
