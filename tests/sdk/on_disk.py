#!/usr/bin/env python3
"""`relay run` on disk, called by three vendors' official SDKs, before and after a restart.

    python tests/sdk/on_disk.py path/to/relay

Needs tests/sdk/requirements.txt. Makes a relay with `relay init --local-issuer` in a temporary folder, starts
the built-in TLS vendor as a process of its own with a random credential that it insists on, adds that
credential on stdin, mints tokens, and calls. In the SDKs only base URL and API key are changed. Fails at the
first thing that is not as it must be.
"""

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from github import Auth, Github
from openai import APIStatusError, OpenAI
from slack_sdk import WebClient

VENDORS = ("openai", "slack", "github")
BASE = {"openai": "/v1", "slack": "/api", "github": ""}


class Relay:
    """One folder made by `relay init`, and the process that serves it."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder, self.process = program, folder, None
        app, admin = free_port(), free_port()
        self.url, self.config = f"http://127.0.0.1:{app}", str(folder / "relay.toml")
        self.environment = {
            **os.environ,
            "RELAY__SERVER__LISTEN": f"127.0.0.1:{app}",
            "RELAY__SERVER__ADMIN_LISTEN": f"127.0.0.1:{admin}",
        }

    def call(self, *words: str, stdin: str = "") -> str:
        done = subprocess.run(
            [self.program, *words], input=stdin, env=self.environment, text=True, capture_output=True, timeout=60
        )
        if done.returncode != 0:
            raise SystemExit(f"relay {' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def start(self) -> None:
        log = open(self.folder / "relay.log", "a")
        self.process = subprocess.Popen(
            [self.program, "run", "--config", self.config], env=self.environment, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log,
        )
        for _ in range(100):
            ready = subprocess.run(
                [self.program, "health", "--config", self.config], env=self.environment, capture_output=True
            )
            if ready.returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit("relay does not run: " + (self.folder / "relay.log").read_text())

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=30) == 0, "relay did not end well"


def main() -> int:
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="relay-sdk-") as name:
        folder = Path(name)
        credential = "sk-" + secrets.token_urlsafe(30)
        (folder / "credential").write_text(credential)
        vendor, origin = start_vendor(program, folder)
        relay = Relay(program, folder / "relay")
        try:
            relay.call("init", "--local-issuer", "--dir", str(relay.folder))
            describe(relay, origin, folder / "vendor-ca.pem")
            relay.call("check", relay.config)
            relay.start()
            added = {
                vendor: relay.call(
                    "secret", "add", "--customer", "acme", "--integration", vendor, "--label", vendor,
                    "--config", relay.config, stdin=credential + "\n",
                )
                for vendor in VENDORS
            }
            token = relay.call("token", "mint", "--customer", "acme", "--config", relay.config)
            everything(relay, added, token, credential)
            relay.stop()
            relay.start()
            print("restarted")
            everything(relay, added, token, credential)
            another_customer(relay, added["openai"])
            print(relay.call("audit", "verify", "--config", relay.config).splitlines()[-1])
            relay.stop()
            nowhere_on_disk(relay.folder, credential)
        finally:
            for process in (relay.process, vendor):
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()
    return 0


def everything(relay: Relay, added: dict, token: str, credential: str) -> None:
    base = {vendor: f"{relay.url}/{vendor}/{added[vendor]}" for vendor in VENDORS}
    openai(base["openai"], token, credential)
    slack(base["slack"], token, credential)
    github(base["github"], token, credential)
    sent_back(base["github"], token, credential)


def openai(base: str, token: str, credential: str) -> None:
    client = OpenAI(base_url=base, api_key=token)
    messages = [{"role": "user", "content": "hello through relay"}]
    whole = client.chat.completions.create(model="relay-dev", messages=messages).choices[0].message.content
    pieces = client.chat.completions.create(model="relay-dev", messages=messages, stream=True)
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    models = [model.id for model in client.models.list()]
    assert "hello through relay" in whole and whole == streamed, (whole, streamed)
    assert models == ["relay-dev"], models
    assert credential not in whole
    # A refusal of relay's own reads to the SDK like one of the vendor's, with relay's code in it.
    try:
        OpenAI(base_url=base.rsplit("/", 1)[0] + f"/{uuid.uuid4()}", api_key=token, max_retries=0).models.list()
    except APIStatusError as refused:
        assert refused.status_code == 404 and refused.code == "secret_not_found", refused
    else:
        raise AssertionError("an unknown secret was served")
    print("openai: whole, streamed, listed; an unknown secret is its APIStatusError 404 secret_not_found")


def slack(base: str, token: str, credential: str) -> None:
    client = WebClient(token=token, base_url=base + "/")
    who = client.auth_test()
    posted = client.chat_postMessage(channel="C00000000", text="hello through relay")
    assert who["team"] == "relay dev" and posted["message"]["text"] == "hello through relay"
    assert credential not in str(who.data) + str(posted.data)
    print("slack:  auth.test, chat.postMessage")


def github(base: str, token: str, credential: str) -> None:
    user = Github(base_url=base, auth=Auth.Token(token)).get_user().raw_data
    shown = f"Bearer [{credential[:8]} + {len(credential) - 8}]"
    assert user["path"] == "/user" and user["i_was_given"] == shown, user
    assert user["your_token_reached_me"] is False, user
    print("github: GET /user; the vendor was given", shown)


def sent_back(base: str, token: str, credential: str) -> None:
    """The vendor's /echo sends a body back byte for byte; relay takes the credential out of it."""
    coded = base64.b64encode(credential.encode()).decode()
    for form in (credential, coded):
        answer = ask(f"{base}/echo", token, json.dumps({"text": form}).encode())
        assert answer[0] == 200, answer
        assert form not in answer[1] and "redacted by relay" in answer[1], "a credential came back"
    print("echo:   raw and base64 come back redacted")


def another_customer(relay: Relay, secret: str) -> None:
    token = relay.call("token", "mint", "--customer", "globex", "--config", relay.config)
    foreign = ask(f"{relay.url}/openai/{secret}/models", token)
    unknown = ask(f"{relay.url}/openai/{uuid.uuid4()}/models", token)
    assert foreign[0] == 404 and foreign[2]["relay-error"] == "secret_not_found", foreign
    assert without_ids(foreign) == without_ids(unknown), (foreign, unknown)
    print("another customer's token: 404 secret_not_found, equal to an unknown UUID's but for date and request id")


def without_ids(answer: tuple) -> tuple:
    status, body, headers = answer
    request = headers["relay-request-id"]
    kept = {name: value for name, value in headers.items() if name not in ("date", "relay-request-id")}
    return status, body.replace(request, "-"), kept


def ask(url: str, token: str, body: bytes | None = None) -> tuple:
    request = urllib.request.Request(url, data=body, headers={"authorization": f"Bearer {token}"})
    if body is not None:
        request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(), lower(answer.headers)
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode(), lower(refused.headers)


def lower(headers) -> dict:
    return {name.lower(): value for name, value in headers.items()}


def describe(relay: Relay, origin: str, ca: Path) -> None:
    """Three integrations, all at the built-in vendor, each under the path that its SDK expects."""
    with open(relay.config, "r+") as file:
        text = file.read().split("[integrations.github]")[0]
        for vendor in VENDORS:
            text += (
                f'[integrations.{vendor}]\nupstream = "{origin}{BASE[vendor]}"\n'
                'inject = [{ header = "authorization", value = "Bearer {token}" }]\n'
                f'ca_file = "{ca}"\nprivate_cidrs = ["127.0.0.0/8"]\n\n'
            )
        file.seek(0)
        file.truncate()
        file.write(text)


def start_vendor(program: str, folder: Path) -> tuple:
    vendor = subprocess.Popen(
        [program, "dev", "--vendor-only", "--listen", "127.0.0.1:0", "--ca-out", str(folder / "vendor-ca.pem"),
         "--credential-file", str(folder / "credential")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )
    origin = vendor.stdout.readline().strip()
    if not origin.startswith("https://"):
        raise SystemExit("the vendor does not run")
    return vendor, origin


def nowhere_on_disk(folder: Path, credential: str) -> None:
    forms = (credential.encode(), base64.b64encode(credential.encode()).rstrip(b"="))
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        held = path.read_bytes()
        assert not any(form in held for form in forms), f"{path} holds the credential"
    assert not list(folder.rglob("blobs/*")), "the store wrote a blob file"
    print(f"disk:   the credential is in none of {len(files)} files")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
