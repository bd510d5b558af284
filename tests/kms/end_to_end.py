#!/usr/bin/env python3
"""`relay run` whose data keys are wrapped by AWS KMS (moto's) or by OpenBao, before and after a restart.

    python tests/kms/end_to_end.py path/to/relay

tests/kms/run starts the key services and says where they are by RELAY_TEST_MOTO and RELAY_TEST_OPENBAO*. For each a
relay of its own: a credential is added, a request goes through to the built-in vendor, relay restarts, and the
request goes through again, its data key opened by the service. Fails at the first thing that is not as it must be.
"""

import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path


class Relay:
    """One folder made by `relay init`, and the process that serves it."""

    def __init__(self, program: str, folder: Path, keys: str, environment: dict) -> None:
        self.program, self.folder, self.process = program, folder, None
        app, admin = free_port(), free_port()
        self.url, self.admin = f"http://127.0.0.1:{app}", f"http://127.0.0.1:{admin}"
        self.config = str(folder / "relay.toml")
        self.environment = {
            **os.environ, **environment,
            "RELAY__SERVER__LISTEN": f"127.0.0.1:{app}", "RELAY__SERVER__ADMIN_LISTEN": f"127.0.0.1:{admin}",
        }
        self.call("init", "--local-issuer", "--dir", str(folder))
        (folder / "relay.key").unlink()
        self.keys = keys

    def describe(self, origin: str, ca: Path) -> None:
        text = Path(self.config).read_text()
        head, rest = text.split("[keys]")
        rest = rest[rest.index("\n["):].split("[integrations.")[0]
        integration = (
            f'[integrations.vendor]\nupstream = "{origin}"\nca_file = "{ca}"\nprivate_cidrs = ["127.0.0.0/8"]\n'
            'inject = [{ header = "authorization", value = "Bearer {token}" }]\n'
        )
        Path(self.config).write_text(f"{head}[keys]\n{self.keys}{rest}{integration}")

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
        for _ in range(200):
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
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0, "relay did not end well"


def main() -> int:
    program = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory(prefix="relay-kms-") as name:
        folder = Path(name)
        credential = "sk-" + secrets.token_urlsafe(30)
        (folder / "credential").write_text(credential)
        vendor = subprocess.Popen(
            [program, "dev", "--vendor-only", "--listen", "127.0.0.1:0", "--ca-out", str(folder / "vendor-ca.pem"),
             "--credential-file", str(folder / "credential")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        try:
            origin = vendor.stdout.readline().strip()
            assert origin.startswith("https://"), "the vendor does not run"
            ways = (aws(by_variables()), aws(by_web_identity(folder)), transit(folder))
            for number, (provider, keys, environment) in enumerate(ways):
                relay = Relay(program, folder / str(number), keys, environment)
                relay.describe(origin, folder / "vendor-ca.pem")
                try:
                    through(relay, credential)
                finally:
                    if relay.process is not None and relay.process.poll() is None:
                        relay.process.kill()
                        relay.process.wait()
                print(f"{provider}: added, used, restarted, used again; the store holds no credential")
        finally:
            vendor.kill()
            vendor.wait()
    return 0


def through(relay: Relay, credential: str) -> None:
    relay.call("check", relay.config)
    relay.start()
    secret = relay.call(
        "secret", "add", "--customer", "acme", "--integration", "vendor", "--label", "bot", "--config", relay.config,
        stdin=credential + "\n",
    )
    token = relay.call("token", "mint", "--customer", "acme", "--config", relay.config)
    shown = f"Bearer [{credential[:8]} + {len(credential) - 8}]"
    for restarted in (False, True):
        answer = json.loads(ask(f"{relay.url}/vendor/{secret}/user", {"authorization": f"Bearer {token}"}))
        assert answer["i_was_given"] == shown and answer["your_token_reached_me"] is False, answer
        if not restarted:
            relay.stop()
            relay.start()
    print(relay.call("audit", "verify", "--config", relay.config).splitlines()[-1])
    relay.stop()
    for path in relay.folder.rglob("*"):
        assert not path.is_file() or credential.encode() not in path.read_bytes(), f"{path} holds the credential"


def by_variables() -> tuple:
    # A proxy is never asked.
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-real-secret-key"}
    return "aws, credentials by variables", {**keys, **proxies}


def by_web_identity(folder: Path) -> tuple:
    (folder / "identity").write_text("a.b.c")
    return "aws, credentials of a web identity by STS", {
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/relay", "AWS_ROLE_SESSION_NAME": "relay",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "identity"), "AWS_ENDPOINT_URL_STS": os.environ["RELAY_TEST_MOTO"],
    }


def aws(login: tuple) -> tuple:
    address = os.environ["RELAY_TEST_MOTO"]
    scope = "Credential=AKIDEXAMPLE/20260101/us-east-1/kms/aws4_request"
    made = json.loads(ask(f"{address}/", {
        "x-amz-target": "TrentService.CreateKey", "content-type": "application/x-amz-json-1.1",
        "authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0",
    }, b"{}"))
    keys = f'provider = "aws"\nkey = "{made["KeyMetadata"]["Arn"]}"\nendpoint = "{address}"\ncontext = "hash"\n'
    # Nothing of the machine's own AWS settings.
    nowhere = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    return login[0], keys, {**nowhere, **login[1]}


def transit(folder: Path) -> tuple:
    address, ca = os.environ["RELAY_TEST_OPENBAO"], os.environ["RELAY_TEST_OPENBAO_CA"]
    tls = ssl.create_default_context(cafile=ca)
    root = {"x-vault-token": os.environ["RELAY_TEST_OPENBAO_TOKEN"], "content-type": "application/json"}

    def bao(path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        return json.loads(ask(f"{address}/v1/{path}", root, data, tls) or "{}")

    for engine in (("sys/mounts/transit", "transit"), ("sys/auth/approle", "approle")):
        try:
            bao(engine[0], {"type": engine[1]})
        except urllib.error.HTTPError as there_already:
            assert there_already.code == 400, there_already
    name = f"relay-{secrets.token_hex(4)}"
    bao(f"transit/keys/{name}", {"derived": True})
    blocks = Path("README.md").read_text().split("```text\n")
    policy = next(block for block in blocks if block.startswith('path "transit/')).split("```")[0]
    bao(f"sys/policies/acl/{name}", {"policy": policy.replace('/relay"', f'/{name}"').replace("/relay/", f"/{name}/")})
    bao(f"auth/approle/role/{name}", {"token_ttl": "20s", "token_policies": [name]})
    role = bao(f"auth/approle/role/{name}/role-id")["data"]["role_id"]
    (folder / "secret_id").write_text(bao(f"auth/approle/role/{name}/secret-id", {})["data"]["secret_id"] + "\n")
    (folder / "secret_id").chmod(0o600)
    keys = (
        f'provider = "transit"\naddress = "{address}"\nkey = "{name}"\nrole_id = "{role}"\n'
        f'secret_id = "file:{folder / "secret_id"}"\nca_file = "{ca}"\n'
    )
    return "transit", keys, {}


def ask(url: str, headers: dict, body: bytes | None = None, tls: ssl.SSLContext | None = None) -> str:
    request = urllib.request.Request(url, data=body, headers=headers)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls or ssl.create_default_context())
    )
    with opener.open(request, timeout=30) as answer:
        return answer.read().decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
