#!/usr/bin/env python3
"""boto3 through `relay run`, and botocore beside it: the same requests, the same signatures.

    python tests/sdk/sigv4.py path/to/relay

The vendor here keeps every request as it came. botocore then signs what the vendor saw, with the real key, for the
configured region, with the date that relay wrote; its signature must be the one that the vendor got. First hand-
written requests whose paths and queries are odd, then boto3 itself for S3 (in the clear, and over TLS with
checksums behind the content), DynamoDB and STS, with dummy keys for another region and the caller's token as
session token. A put of 64 MiB must not show in relay's memory. Needs tests/sdk/requirements.txt and openssl.
"""

import hashlib
import http.client
import json
import secrets
import sys
import tempfile
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote, urlsplit

import boto3
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from on_disk import Relay, free_port
from paging import Vendor, identity

REGION, ACCESS, BIG = "eu-west-1", "AKIDEXAMPLE", 64 * 1024 * 1024
EMPTY = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
SERVICES = {"s3": "s3", "tls": "s3", "dynamodb": "dynamodb", "sts": "sts", "api": "execute-api"}

# What is sent, and how AWS writes it where that is not how it was sent.
TARGETS = [
    ("/", None),
    ("/bucket/key", None),
    ("/bucket/a%20b", None),
    ("/bucket/a%2Fb%25", None),
    ("/bucket/%C3%BC/%E2%82%AC.txt", None),
    ("/bucket/a~b_c-d.e", None),
    ("/bucket/%28x%29%21%2A%27%2B%3D%26%24%40%3A%2C", None),
    ("/bucket//double///slash//", None),
    ("/bucket/key?uploads", "/bucket/key?uploads="),
    ("/bucket/key?partNumber=2&uploadId=a%2Bb%2F%3D", None),
    ("/bucket?a=2&a=1&a=&b&A=%20", "/bucket?a=2&a=1&a=&b=&A=%20"),
    ("/bucket?prefix=%C3%BC%2F&delimiter=%2F&empty=", None),
    ("/bucket?a-b=1&a%3D=1&a=1", None),
    ("/bucket?k=x+y&l=x%2By", "/bucket?k=x%20y&l=x%2By"),
    ("/bucket?k=a%7eb*c", "/bucket?k=a~b%2Ac"),
]


class Aws(BaseHTTPRequestHandler):
    """Takes everything, and answers what these SDKs read."""

    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        if self.headers.get("expect"):
            self.send_response_only(100)
            self.end_headers()
        content = Content(self.rfile, self.headers)
        self.server.seen.append((self.command, self.path, list(self.headers.items()), content))
        kind, body = "application/xml", b""
        if "list-type=2" in self.path:
            body = b"<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount></ListBucketResult>"
        elif self.headers.get("x-amz-target"):
            kind, body = "application/x-amz-json-1.0", json.dumps({"TableNames": ["t"]}).encode()
        elif b"GetCallerIdentity" in content.begin:
            body = (b'<GetCallerIdentityResponse><GetCallerIdentityResult><Account>1</Account>'
                    b"</GetCallerIdentityResult></GetCallerIdentityResponse>")
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"1"')
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def log_message(self, *_) -> None:
        pass


class Content:
    """A body read to its end: its hash, its length, how it begins; out of aws-chunked where it is that."""

    def __init__(self, file, headers) -> None:
        self.begin, self.length, digest = b"", 0, hashlib.sha256()
        chunked = (headers.get("transfer-encoding") or "").lower() == "chunked"
        source = unchunked(file, b"\r\n") if chunked else pieces(file, int(headers.get("content-length") or 0))
        if "aws-chunked" in (headers.get("content-encoding") or ""):
            source = unchunked(Joined(source), b"")
        for piece in source:
            self.begin, self.length = (self.begin + piece)[:4096], self.length + len(piece)
            digest.update(piece)
        self.sha256 = digest.hexdigest()


class Joined:
    """An iterator of pieces, read like a file."""

    def __init__(self, source) -> None:
        self.source, self.held = source, b""

    def readline(self) -> bytes:
        while b"\n" not in self.held:
            piece = next(self.source, b"")
            if not piece:
                break
            self.held += piece
        line, found, self.held = self.held.partition(b"\n")
        return line + found

    def read(self, length: int) -> bytes:
        while len(self.held) < length:
            piece = next(self.source, b"")
            if not piece:
                break
            self.held += piece
        taken, self.held = self.held[:length], self.held[length:]
        return taken


def pieces(file, length: int):
    while length > 0:
        piece = file.read(min(length, 1 << 20))
        if not piece:
            return
        length -= len(piece)
        yield piece


def unchunked(file, end: bytes):
    while True:
        length = int(file.readline().split(b";")[0].strip() or b"0", 16)
        if length == 0:
            # Trailers, up to the empty line or the end.
            while file.readline().strip():
                pass
            return
        yield from pieces(file, length)
        file.readline()


def main() -> int:
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="relay-sigv4-") as name:
        folder = Path(name)
        ca, certificate = identity(folder)
        vendor = Vendor(certificate, Aws)
        relay = Relay(program, folder / "relay")
        real = Credentials(ACCESS, secrets.token_urlsafe(30))
        try:
            door, added, token = set_up(relay, folder, vendor.origin, real)
            side_by_side(relay, added, token, vendor, real)
            sdks(relay, door, ca, added, token, vendor, real)
            refused(relay, added, token, vendor)
            for _, path, headers, _ in vendor.seen:
                text = path + str(headers)
                assert token not in text and real.secret_key not in text and "dummy" not in text, text
                assert not any(name.lower().startswith("relay-") for name, _ in headers), headers
            print(relay.call("audit", "verify", "--config", relay.config).splitlines()[-1])
            relay.stop()
        finally:
            if relay.process is not None and relay.process.poll() is None:
                relay.process.kill()
                relay.process.wait()
    return 0


def set_up(relay: Relay, folder: Path, origin: str, real: Credentials) -> tuple:
    relay.call("init", "--local-issuer", "--dir", str(relay.folder))
    door = free_port()
    text = Path(relay.config).read_text().split("[integrations.")[0].replace(
        "[server]\n", f'[server]\ntls = {{ certificate = "{folder}/cert.pem", key = "{folder}/key.pem" }}\n', 1)
    for name, service in SERVICES.items():
        listen = f'listen = "tls:127.0.0.1:{door}"\n' if name == "tls" else ""
        text += (
            f'[integrations.{name}]\nupstream = "{origin}"\n{listen}'
            f'ca_file = "{folder}/ca.pem"\nprivate_cidrs = ["127.0.0.0/8", "::1/128"]\n'
            f'sign = {{ with = "aws_sigv4", region = "{REGION}", service = "{service}", access_key = "{{id}}", '
            f'secret_key = "{{key}}", session_token = "{{session}}" }}\n'
            f"fields = {{ id = {{ secret = false }}, key = {{}}, session = {{ optional = true }} }}\n\n"
        )
    Path(relay.config).write_text(text)
    relay.call("check", relay.config)
    relay.start()
    add = ("secret", "add", "--customer", "acme", "--label", "x", "--config", relay.config, "--integration")
    fields = {"id": real.access_key, "key": real.secret_key}
    added = {name: relay.call(*add, name, stdin=json.dumps(fields)) for name in SERVICES}
    for name in ("s3", "api"):
        added[name + "+session"] = relay.call(*add, name, stdin=json.dumps(fields | {"session": SESSION}))
    return door, added, relay.call("token", "mint", "--customer", "acme", "--config", relay.config)


SESSION = "session/token+of==" + "x" * 300


def compare(what: str, service: str, seen: tuple, real: Credentials, origin: str, target: str | None = None) -> None:
    """botocore signs what the vendor saw; the signatures must be equal."""
    method, path, headers, content = seen
    fields = {name.lower(): value for name, value in headers}
    given = fields["authorization"]
    names = given.split("SignedHeaders=")[1].split(",")[0].split(";")
    request = AWSRequest(method=method, url=origin + (target or path))
    for name in names:
        for value in [value for key, value in headers if key.lower() == name]:
            request.headers.add_header(name, value)
    request.context["timestamp"] = fields["x-amz-date"]
    payload = fields.get("x-amz-content-sha256") or content.sha256
    auth = (S3SigV4Auth if service == "s3" else SigV4Auth)(real, service, REGION)
    auth.payload = lambda _: payload
    text = auth.string_to_sign(request, auth.canonical_request(request))
    scope = f"{fields['x-amz-date'][:8]}/{REGION}/{service}/aws4_request"
    signature = auth.signature(text, request)
    wanted = f"AWS4-HMAC-SHA256 Credential={ACCESS}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    assert given == wanted, f"{what}: {method} {path}\nrelay:    {given}\nbotocore: {wanted}"
    every = {key.lower() for key, _ in headers if key.lower().startswith("x-amz-")} | {"host"}
    assert every <= set(names), f"{what}: {every - set(names)} is not signed"


def side_by_side(relay: Relay, added: dict, token: str, vendor: Vendor, real: Credentials) -> None:
    front, compared = urlsplit(relay.url), 0
    connection = http.client.HTTPConnection(front.hostname, front.port, timeout=20)
    for name in ("s3", "s3+session", "api", "api+session"):
        integration = name.split("+")[0]
        for target, tidy in TARGETS:
            for method, body, told in (("GET", b"", EMPTY), ("PUT", b"content", UNSIGNED), ("PUT", b"content", None)):
                connection.putrequest(method, f"/{integration}/{added[name]}{target}", skip_accept_encoding=True)
                connection.putheader("x-amz-security-token", token)
                connection.putheader("content-length", str(len(body)))
                connection.putheader("content-type", "text/plain;  charset=utf-8")
                connection.putheader("x-amz-meta-twice", "a   b")
                connection.putheader("x-amz-meta-twice", "c")
                if told:
                    connection.putheader("x-amz-content-sha256", told)
                connection.endheaders(body)
                answer = connection.getresponse()
                assert answer.status == 200, (target, answer.status, answer.read())
                answer.read()
                seen = vendor.seen[-1]
                assert seen[1] == target, f"{target} went out as {seen[1]}"
                session = dict((key.lower(), value) for key, value in seen[2]).get("x-amz-security-token")
                assert session == (SESSION if "+" in name else None), session
                compare(name, SERVICES[integration], seen, real, vendor.origin, tidy)
                compared += 1
    connection.close()
    print(f"botocore: {compared} requests of {len(TARGETS)} paths and queries, S3 and not, equal signatures")


def memory(relay: Relay) -> int:
    """The most that relay had in memory since this was last asked, in KiB."""
    process = Path(f"/proc/{relay.process.pid}")
    most = int((process / "status").read_text().split("VmHWM:")[1].split()[0])
    (process / "clear_refs").write_text("5")
    return most


class Random:
    """So many bytes that can be read twice and are nowhere whole."""

    def __init__(self, length: int) -> None:
        self.length, self.at = length, 0

    def read(self, size: int = -1) -> bytes:
        left = self.length - self.at
        size = left if size is None or size < 0 else min(size, left)
        self.at += size
        return b"r" * size

    def seek(self, to: int, whence: int = 0) -> int:
        self.at = (0, self.at, self.length)[whence] + to
        return self.at

    def tell(self) -> int:
        return self.at


def sdks(relay: Relay, door: int, ca: Path, added: dict, token: str, vendor: Vendor, real: Credentials) -> None:
    def client(service: str, name: str, url: str | None = None, signature: str | None = None, **more):
        given = {"aws_access_key_id": "dummy", "aws_secret_access_key": "dummy", "aws_session_token": token} | more
        return boto3.client(
            service, endpoint_url=url or f"{relay.url}/{name}/{added[name]}", region_name="us-west-2",
            config=Config(
                s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, signature_version=signature
            ), **given,
        )

    def calls(what: str, service: str, *made) -> None:
        before = len(vendor.seen)
        for call in made:
            call()
        assert len(vendor.seen) - before >= len(made), f"{what}: not every call reached the vendor"
        for seen in vendor.seen[before:]:
            compare(what, service, seen, real, vendor.origin)
        print(f"{what}: {len(vendor.seen) - before} requests, signed as botocore signs them")

    plain = client("s3", "s3")
    secure = client("s3", "tls", f"https://localhost:{door}/{added['tls']}", verify=str(ca))
    for what, s3 in (("boto3 S3", plain), ("boto3 S3 over TLS", secure)):
        key = "odd name/\u00fc+(1)~!*'%2F=&$@.txt"
        calls(
            what, "s3",
            lambda: s3.put_object(Bucket="b", Key=key, Body=b"content", Metadata={"a": "b  c"}),
            lambda: s3.head_object(Bucket="b", Key=key),
            lambda: s3.list_objects_v2(Bucket="b", Prefix="\u00fc /+", Delimiter="/"),
            lambda: s3.delete_object(Bucket="b", Key=key, VersionId="v+1"),
        )
        put = next(seen for seen in reversed(vendor.seen) if seen[0] == "PUT")
        assert put[3].sha256 == hashlib.sha256(b"content").hexdigest(), put
        memory(relay)
        before = memory(relay)
        s3.put_object(Bucket="b", Key="big", Body=Random(BIG))
        grown = (memory(relay) - before) / 1024
        put = vendor.seen[-1]
        compare(what, "s3", put, real, vendor.origin)
        assert put[3].length == BIG, put[3].length
        told = dict((name.lower(), value) for name, value in put[2])["x-amz-content-sha256"]
        assert grown < 16, f"relay's memory grew by {grown:.1f} MiB"
        print(f"{what}: a put of {BIG >> 20} MiB ({told[:36]}), relay's memory grew by {grown:.1f} MiB")
    dynamodb, sts = client("dynamodb", "dynamodb"), client("sts", "sts")
    calls("boto3 DynamoDB", "dynamodb", lambda: dynamodb.list_tables(Limit=1))
    calls("boto3 STS", "sts", sts.get_caller_identity)
    bearer = {"authorization": f"Bearer {token}"}
    for version in ("s3", "s3v4"):
        with_token = client("s3", "s3", signature=version)
        url = with_token.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
        assert code_of(url, bearer) == "path_refused", "the URL holds the caller's token"
        without = client("s3", "s3", signature=version, aws_session_token=None)
        url = without.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
        assert code_of(url, bearer) == "request_unsignable", url


def code_of(url: str, headers: dict, data: bytes | None = None) -> str:
    request = urllib.request.Request(url, data=data, headers=headers, method="PUT" if data else "GET")
    try:
        urllib.request.urlopen(request, timeout=20).read()
    except urllib.error.HTTPError as error:
        return error.headers["relay-error"]
    return "none"


def refused(relay: Relay, added: dict, token: str, vendor: Vendor) -> None:
    before = len(vendor.seen)
    headers = {"x-amz-security-token": token, "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}
    assert code_of(f"{relay.url}/s3/{added['s3']}/b/k", headers, b"x") == "request_unsignable"
    signature = quote("X-Amz-Signature", safe="") + "=1"
    headers["x-amz-content-sha256"] = UNSIGNED
    assert code_of(f"{relay.url}/s3/{added['s3']}/b/k?{signature}", headers) == "request_unsignable"
    assert len(vendor.seen) == before
    print("presigned URLs and signed chunks: refused before the vendor")


if __name__ == "__main__":
    sys.exit(main())
