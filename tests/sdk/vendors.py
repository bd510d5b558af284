#!/usr/bin/env python3
"""Vendors' official SDKs for Python and Node through `relay run`: only base URL and API key are changed.

    python tests/sdk/vendors.py path/to/relay folder/for/node_modules

Each SDK has a vendor of its own here, which answers as the real one does and keeps every request. At the end
each request must carry the credential where that vendor wants it, and neither the caller's token, nor the
secret's UUID, nor a `Relay-*` field; a control proves that the search would have found them. Needs
tests/sdk/requirements.txt, openssl, and node with npm.
"""

import asyncio
import base64
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Callable
from urllib.parse import parse_qs

import anthropic
import jwt
import notion_client
import pyairtable
import sendgrid
import stripe
import requests
import simple_salesforce
import telegram
import twilio.rest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from github import Auth, Github
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build
from openai import OpenAI
from slack_sdk import WebClient
from telegram.request import HTTPXRequest

from on_disk import Relay, free_port
from paging import Vendor, identity, node_at

MESSAGE = {"role": "user", "content": "hello through relay"}
ACCOUNT = "AC" + "0" * 32
ACCESS = "AKIAIOSFODNN7EXAMPLE"
ROBOT = "robot@project.iam.gserviceaccount.com"
UPLOAD = 8 << 20
NODE = Path(sys.argv[2]).resolve()


class Recorder(BaseHTTPRequestHandler):
    """Keeps the request whole and answers what the vendor's table says."""

    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        self.server.seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        path = self.path.partition("?")[0]
        for (method, pattern), answer in self.server.table.items():
            if method == self.command and re.fullmatch(pattern, path):
                return self.answer(200, answer() if callable(answer) else answer)
        self.answer(404, {"error": {"message": f"there is no {self.command} {path} here"}})

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = serve

    def answer(self, status: int, answer) -> None:
        stream = isinstance(answer, str)
        sent = answer.encode() if stream else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "text/event-stream" if stream else "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_) -> None:
        pass


@dataclass
class Case:
    """One vendor: how relay is told of it, how its SDK is, and where it wants the credential."""

    name: str
    inject: str
    drive: Callable[[str, str], str]
    table: dict
    wants: Callable[[tuple, str], bool]
    fields: dict = field(default_factory=dict)
    settings: str = ""
    # The field that is the credential.
    key: str = "token"
    # How it is made.
    make: Callable[[], str] = lambda: "sk-" + secrets.token_urlsafe(30)
    # Where the vendor is; `settings` may say {port}, too.
    upstream: str = "https://localhost:{port}"
    # A listener of its own, which the SDK cannot do without: the start of its address.
    door: str = ""

    def secret(self, credential: str) -> str:
        return json.dumps({**self.fields, self.key: credential})


def bearer(request: tuple, credential: str) -> bool:
    return request[2].get("authorization") == f"Bearer {credential}"


def in_header(name: str) -> Callable[[tuple, str], bool]:
    return lambda request, credential: request[2].get(name) == credential


def basic(request: tuple, credential: str) -> bool:
    pair = base64.b64encode(f"{ACCOUNT}:{credential}".encode()).decode()
    return request[2].get("authorization") == f"Basic {pair}"


def in_path(request: tuple, credential: str) -> bool:
    return request[1].startswith(f"/bot{credential}/")


def re_signed(request: tuple, credential: str) -> bool:
    given = request[2].get("authorization", "")
    return given.startswith(f"AWS4-HMAC-SHA256 Credential={ACCESS}/") and "unused" not in given


def use_stripe(base: str, token: str) -> str:
    client = stripe.StripeClient(token, base_addresses={"api": base, "files": base}, max_network_retries=0)
    made = client.v1.customers.create(params={"email": "a@example.com"})
    found = client.v1.customers.list(params={"limit": 3})
    assert made.id == "cus_1" and [customer.id for customer in found.auto_paging_iter()] == ["cus_1"]
    return "customers created and listed"


def use_slack(base: str, token: str) -> str:
    client = WebClient(token=token, base_url=base + "/")
    assert client.auth_test()["team"] == "acme"
    assert client.chat_postMessage(channel="C1", text="hello")["ts"] == "1.2"
    return "auth.test, chat.postMessage"


def use_github(base: str, token: str) -> str:
    client = Github(base_url=base, auth=Auth.Token(token), retry=None)
    assert client.get_user().login == "acme"
    return "GET /user"


def use_openai(base: str, token: str) -> str:
    client = OpenAI(base_url=base + "/v1", api_key=token, max_retries=0)
    pieces = client.chat.completions.create(model="m", messages=[MESSAGE], stream=True)
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == "hello", text
    return "a streamed completion"


def use_anthropic(base: str, token: str) -> str:
    client = anthropic.Anthropic(base_url=base, api_key=token, max_retries=0)
    said = client.messages.create(model="m", max_tokens=9, messages=[MESSAGE])
    assert said.content[0].text == "hello", said
    return "a message"


def use_twilio(base: str, token: str) -> str:
    client = twilio.rest.Client(ACCOUNT, token)
    client.api.base_url = base
    sent = client.messages.create(to="+15005550006", from_="+15005550006", body="hello")
    assert sent.sid == "SM1", sent
    return "a message, the token as Basic's password"


def use_telegram(base: str, token: str) -> str:
    async def called() -> str:
        requests = (HTTPXRequest(), HTTPXRequest())
        bot = telegram.Bot(token, base_url=f"{base}/bot", request=requests[0], get_updates_request=requests[1])
        async with bot:
            said = await bot.send_message(chat_id=1, text="hello")
        return said.text

    assert asyncio.run(called()) == "hello"
    return "getMe, sendMessage, the token in the path"


def use_sendgrid(base: str, token: str) -> str:
    client = sendgrid.SendGridAPIClient(api_key=token, host=base)
    answer = client.client.mail.send.post(request_body={"subject": "hello"})
    assert answer.status_code == 200, answer
    return "a mail"


def use_notion(base: str, token: str) -> str:
    client = notion_client.Client(auth=token, base_url=base)
    assert client.users.me()["id"] == "u1"
    return "users/me"


def use_airtable(base: str, token: str) -> str:
    records = pyairtable.Api(token, endpoint_url=base).table("app1", "tbl1").all()
    assert [record["id"] for record in records] == ["rec1"], records
    return "a table's records"


def use_salesforce(base: str, token: str) -> str:
    client = simple_salesforce.Salesforce(instance_url=base, session_id=token, session=requests.Session())
    assert client.query("SELECT Id FROM Account")["records"][0]["Id"] == "1"
    return "a query at the customer's own host"


def in_node(*words: str) -> str:
    done = subprocess.run(["node", "vendors.mjs", *words], cwd=NODE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def use_stripe_in_node(base: str, token: str) -> str:
    return in_node("stripe", base.rpartition(":")[2], token)


def use_s3_in_node(base: str, token: str) -> str:
    return in_node("s3", base, token, str(UPLOAD))


def use_google(base: str, token: str) -> str:
    endpoint = {"api_endpoint": f"{base}/drive/v3/"}
    service = build("drive", "v3", credentials=Credentials(token), client_options=endpoint, static_discovery=True)
    for _ in range(3):
        assert service.files().list(pageSize=2).execute()["files"][0]["id"] == "f1"
    return "files listed, by a service account whose key the SDK never had"


def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


MINTED = []


def minted() -> dict:
    MINTED.append("ya29." + secrets.token_urlsafe(40))
    return {"access_token": MINTED[-1], "expires_in": 3599, "token_type": "Bearer"}


def by_service_account(request: tuple, credential: str) -> bool:
    _, path, headers, body = request
    if path != "/token":
        return headers.get("authorization") == f"Bearer {MINTED[-1]}" and len(MINTED) == 1
    given = parse_qs(body.decode())
    key = serialization.load_pem_private_key(credential.encode(), None).public_key()
    claims = jwt.decode(given["assertion"][0], key, algorithms=["RS256"], options={"verify_aud": False})
    return claims["iss"] == ROBOT and given["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]


COMPLETION = "".join(
    "data: " + json.dumps({
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}],
    }) + "\n\n"
    for piece in ("hel", "lo")
) + "data: [DONE]\n\n"

BEARER = '{ header = "authorization", value = "Bearer {token}" }'
CUSTOMER = {"id": "cus_1", "object": "customer", "email": "a@example.com"}
BOT = {"id": 1, "is_bot": True, "first_name": "relay", "username": "relay_bot"}
SAID = {"message_id": 1, "date": 1, "chat": {"id": 1, "type": "private"}, "text": "hello"}
ANTHROPIC = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
    "stop_sequence": None, "content": [{"type": "text", "text": "hello"}],
    "usage": {"input_tokens": 1, "output_tokens": 1},
}

CASES = [
    Case("stripe", BEARER, use_stripe, {
        ("POST", "/v1/customers"): CUSTOMER,
        ("GET", "/v1/customers"): {"object": "list", "data": [CUSTOMER], "has_more": False, "url": "/v1/customers"},
    }, bearer),
    Case("slack", BEARER, use_slack, {
        ("POST", "/auth.test"): {"ok": True, "team": "acme"},
        ("POST", "/chat.postMessage"): {"ok": True, "ts": "1.2"},
    }, bearer),
    Case("github", BEARER, use_github, {("GET", "/user"): {"login": "acme", "id": 1}}, bearer),
    Case("openai", BEARER, use_openai, {("POST", "/v1/chat/completions"): COMPLETION}, bearer),
    Case("anthropic", '{ header = "x-api-key", value = "{token}" }', use_anthropic,
         {("POST", "/v1/messages"): ANTHROPIC}, in_header("x-api-key")),
    Case("twilio", '{ header = "authorization", value = "basic({sid}, {token})" }', use_twilio, {
        ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"): {"sid": "SM1", "status": "queued"},
    }, basic, {"sid": ACCOUNT}, 'fields = { sid = { secret = false }, token = {} }\n'),
    Case("telegram", '{ path = "/bot{token}" }', use_telegram, {
        ("POST", "/bot[^/]+/getMe"): {"ok": True, "result": BOT},
        ("POST", "/bot[^/]+/sendMessage"): {"ok": True, "result": SAID},
    }, in_path),
    Case("sendgrid", BEARER, use_sendgrid, {("POST", "/v3/mail/send"): {}}, bearer),
    Case("notion", BEARER, use_notion, {("GET", "/v1/users/me"): {"object": "user", "id": "u1"}}, bearer),
    Case("airtable", BEARER, use_airtable, {
        ("GET", "/v0/app1/tbl1"): {"records": [{"id": "rec1", "createdTime": "2026-01-01T00:00:00Z", "fields": {}}]},
    }, bearer),
    Case("google", '{ header = "authorization", value = "Bearer {access_token}" }', use_google, {
        ("POST", "/token"): minted, ("GET", "/drive/v3/files"): {"files": [{"id": "f1"}]},
    }, by_service_account, {"client_email": ROBOT}, key="private_key", make=private_key, settings=(
        'oauth2 = { grant = "jwt_bearer", token = "https://localhost:{port}/token", assertion = { '
        'algorithm = "RS256", issuer = "{client_email}", scope = "drive", key = "{private_key}" } }\n'
        "fields = { client_email = { secret = false }, private_key = {} }\n")),
    Case("salesforce", BEARER, use_salesforce, {
        ("GET", "/services/data/v[0-9.]+/query/"): {"totalSize": 1, "done": True, "records": [{"Id": "1"}]},
    }, bearer, {"instance": "acme"}, door="https://localhost", upstream="https://{instance}.my.localhost:{port}",
         settings='fields = { instance = { secret = false, match = "[a-z0-9-]{2,40}" }, token = {} }\n'),
    Case("stripe_node", BEARER, use_stripe_in_node, {
        ("POST", "/v1/customers"): CUSTOMER,
        ("GET", "/v1/customers"): {"object": "list", "data": [CUSTOMER], "has_more": False, "url": "/v1/customers"},
    }, bearer, door="http://127.0.0.1"),
    Case("s3_node", "", use_s3_in_node, {("PUT", "/b/.*"): {}}, re_signed, {"access_key_id": ACCESS},
         key="secret_access_key", settings=(
             'sign = { with = "aws_sigv4", region = "eu-central-1", service = "s3", '
             'access_key = "{access_key_id}", secret_key = "{secret_access_key}" }\n'
             "fields = { access_key_id = { secret = false }, secret_access_key = {} }\n")),
]


def main() -> int:
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="relay-vendors-") as name:
        folder = Path(name)
        node_at(NODE, "vendors.mjs")
        ca, certificate = identity(folder)
        # The environment's bundle, if there is one, comes before a session's own.
        os.environ["REQUESTS_CA_BUNDLE"] = str(ca)
        relay = Relay(program, folder / "relay")
        vendors = {}
        for case in CASES:
            vendors[case.name] = Vendor(certificate, Recorder)
            vendors[case.name].table = case.table
        credentials = {case.name: case.make() for case in CASES}
        try:
            doors = {case.name: free_port() for case in CASES if case.door}
            added, token = set_up(relay, folder, vendors, credentials, doors)
            for case in CASES:
                own = f"{case.door}:{doors[case.name]}" if case.door else None
                said = case.drive(own or f"{relay.url}/{case.name}/{added[case.name]}", token)
                seen = vendors[case.name].seen
                judged(case, seen, credentials[case.name], (token, added[case.name]))
                print(f"{case.name + ':':<13}{said}; {len(seen)} requests, each with the credential alone")
            control(CASES[0], vendors["stripe"].seen, credentials["stripe"], token)
            print(relay.call("audit", "verify", "--config", relay.config).splitlines()[-1])
            relay.stop()
            on_no_disk(relay.folder, [*credentials.values(), *MINTED])
        finally:
            if relay.process is not None and relay.process.poll() is None:
                relay.process.kill()
                relay.process.wait()
    return 0


def set_up(relay: Relay, folder: Path, vendors: dict, credentials: dict, doors: dict) -> tuple:
    relay.call("init", "--local-issuer", "--dir", str(relay.folder))
    text = Path(relay.config).read_text().split("[integrations.")[0].replace(
        "[server]\n",
        f'[server]\ntls = {{ certificate = "{folder}/cert.pem", key = "{folder}/key.pem" }}\n', 1)
    for case in CASES:
        port = str(vendors[case.name].server_port)
        upstream, settings = (told.replace("{port}", port) for told in (case.upstream, case.settings))
        text += f'[integrations.{case.name}]\nupstream = "{upstream}"\n{settings}'
        if case.inject:
            text += f"inject = [{case.inject}]\n"
        if case.door:
            tls = "tls:" if case.door.startswith("https") else ""
            text += f'listen = "{tls}127.0.0.1:{doors[case.name]}"\ndefault_secret = "only"\n'
        text += f'ca_file = "{folder}/ca.pem"\nprivate_cidrs = ["127.0.0.0/8", "::1/128"]\n\n'
    Path(relay.config).write_text(text)
    relay.start()
    add = ("secret", "add", "--customer", "acme", "--label", "x", "--config", relay.config, "--integration")
    added = {case.name: relay.call(*add, case.name, stdin=case.secret(credentials[case.name])) for case in CASES}
    return added, relay.call("token", "mint", "--customer", "acme", "--config", relay.config)


def judged(case: Case, seen: list, credential: str, never: tuple) -> None:
    assert seen, f"{case.name}: the vendor saw nothing"
    for request in seen:
        assert case.wants(request, credential), f"{case.name}: the credential is not where it belongs"
        whole = repr(request).lower()
        assert not any(word.lower() in whole for word in never), f"{case.name}: what is relay's alone went out"
        assert not any(name.lower().startswith("relay-") for name in request[2]), request[2].keys()


def on_no_disk(folder: Path, credentials: list) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        held = path.read_bytes()
        assert not any(credential.encode() in held for credential in credentials), f"{path} holds a credential"
    print(f"disk:        none of {len(credentials)} credentials and tokens is in one of {len(files)} files")


def control(case: Case, seen: list, credential: str, token: str) -> None:
    """The same judgement, of a request that did carry the token."""
    method, path, headers, body = seen[0]
    try:
        judged(case, [(method, path, {**headers, "X-Key": token}, body)], credential, (token,))
    except AssertionError:
        print("control:     a request with the caller's token would have been found")
    else:
        raise SystemExit("a request that carries the caller's token passes: the check is blind")


if __name__ == "__main__":
    sys.exit(main())
