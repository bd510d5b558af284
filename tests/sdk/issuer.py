#!/usr/bin/env python3
"""A real issuer's tokens through `relay run`: discovery, a rotated key, a removed one, an outage.

    python tests/sdk/issuer.py path/to/relay folder/for/node_modules

The issuer is oauth2-mock-server behind TLS (issuer.mjs). Times are relay's own, so this takes some forty seconds:
a key that is published after relay's last reading is read when a token names it, at most once in 30 s. Needs
openssl, and node with npm.
"""

import json
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from on_disk import Relay, ask, describe, start_vendor
from paging import identity, node_at


class Issuer:
    """issuer.mjs as a process."""

    def __init__(self, modules: Path, folder: Path) -> None:
        self.process = subprocess.Popen(
            ["node", "issuer.mjs", str(folder / "cert.pem"), str(folder / "key.pem")],
            cwd=modules, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )

    def call(self, **words) -> dict:
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def token(self, kid: str, **claims) -> str:
        asked = {"aud": "relay", "customer_id": "acme", "jti": secrets.token_hex(8), **claims}
        return self.call(sign=kid, claims=asked)["token"]

    def stop(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def main() -> int:
    program, modules = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    node_at(modules, "issuer.mjs")
    with tempfile.TemporaryDirectory(prefix="relay-issuer-") as name:
        folder = Path(name)
        identity(folder)
        credential = "sk-" + secrets.token_urlsafe(30)
        (folder / "credential").write_text(credential)
        issuer = Issuer(modules, folder)
        vendor, origin = start_vendor(program, folder)
        relay = Relay(program, folder / "relay")
        try:
            url = issuer.call(serve=["first"])["url"]
            relay.call("init", "--dir", str(relay.folder))
            describe(relay, origin, folder / "vendor-ca.pem")
            discover(relay, url, folder / "ca.pem")
            relay.start()
            began = time.monotonic()
            secret = relay.call(
                "secret", "add", "--customer", "acme", "--integration", "github", "--label", "x",
                "--config", relay.config, stdin=credential,
            )
            there = f"{relay.url}/github/{secret}/user"
            everything(relay, issuer, there, began)
            doctor(relay)
            relay.stop()
        finally:
            issuer.stop()
            for process in (relay.process, vendor):
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()
    return 0


def discover(relay: Relay, url: str, ca: Path) -> None:
    """Puts the issuer where `relay init` named a file."""
    lines = Path(relay.config).read_text().splitlines()
    instead = {
        "jwks": f'discovery = "{url}"\nca_file = "{ca}"', "issuer": f'issuer = "{url}"',
        "algorithms": 'algorithms = ["RS256"]',
    }
    lines = [instead.get(line.split("=")[0].strip(), line) for line in lines]
    Path(relay.config).write_text("\n".join(lines) + "\n")


def everything(relay: Relay, issuer: Issuer, there: str, began: float) -> None:
    first = issuer.token("first")
    assert ask(there, first)[0] == 200, ask(there, first)
    refused(there, issuer.token("first", iss="https://other.example"), "token_issuer")
    refused(there, issuer.token("first", aud="other"), "token_audience")
    print("discovery: the issuer's tokens are believed, and another issuer's or audience's are not")

    issuer.call(serve=["second"])
    second = issuer.token("second")
    refused(there, second, "token_invalid")
    assert ask(there, first)[0] == 200, "the first key was not read as removed yet"
    time.sleep(max(0.0, began + 31 - time.monotonic()))
    assert ask(there, second)[0] == 200, ask(there, second)
    refused(there, first, "token_invalid")
    print("rotation: a token names the new key, it is read, and the removed one is dead")

    issuer.call(stop=True)
    for _ in range(50):
        refused(there, issuer.token("first"), "token_invalid")
    assert ask(there, issuer.token("second"))[0] == 200, "a known key serves on in an outage"
    reads = metric(relay, "relay_jwks_reads_total")
    most = 2 + int((time.monotonic() - began) / 30)
    assert 2 <= reads <= most, (reads, most)
    issuer.call(serve=["second"])
    print(f"outage: a known key serves on; {reads:.0f} readings in all, {most} allowed")


def refused(there: str, token: str, code: str) -> None:
    status, body, headers = ask(there, token)
    assert (status, headers.get("relay-error")) == (401, code), (status, body)


def metric(relay: Relay, name: str) -> float:
    admin = relay.environment["RELAY__SERVER__ADMIN_LISTEN"]
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def doctor(relay: Relay) -> None:
    said = json.loads(relay.call("doctor", "--config", relay.config, "--format", "json"))
    found = {one["check"]: one["found"] for one in said["checks"]}
    assert said["good"] and said["running"] and "keys that fit: 1 (second)" in found["issuers"], said
    print("doctor:", found["issuers"])


if __name__ == "__main__":
    sys.exit(main())
