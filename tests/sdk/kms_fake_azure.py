#!/usr/bin/env python3
"""The fake of Azure Key Vault, used by Microsoft's own SDK: what relay is tested against answers as Azure does.

    python tests/sdk/kms_fake_azure.py path/to/fakes

Needs tests/sdk/requirements-kms-azure.txt. Starts the program built from tests/fakes, and fails at the first
answer that the SDK does not take for Azure's. The SDK wraps with the public key on its own side and the vault
unwraps, so the two agree about RSA-OAEP-256 without having spoken about it.
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys import KeyClient
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm

OAEP = KeyWrapAlgorithm.rsa_oaep_256
SECRET = bytes(range(32))


class Credential:
    """A client secret, shown to the fake's token endpoint."""

    def __init__(self, fake: dict, ca: str, secret: str) -> None:
        self.url = f"https://localhost/{fake['tenant']}/oauth2/v2.0/token"
        self.form = {"client_id": fake["client"], "client_secret": secret, "grant_type": "client_credentials"}
        self.ca, self.asked = ca, 0

    def get_token(self, *scopes: str, **_options) -> AccessToken:
        self.asked += 1
        answer = requests.post(self.url, data={**self.form, "scope": " ".join(scopes)}, verify=self.ca, timeout=5)
        if answer.status_code != 200:
            raise ClientAuthenticationError(message=answer.json()["error_description"])
        told = answer.json()
        assert told["token_type"] == "Bearer"
        return AccessToken(told["access_token"], int(time.time()) + told["expires_in"])


def refused(kind: type[Exception], status: int, call) -> None:
    try:
        call()
    except kind as error:
        assert getattr(error, "status_code", None) in (status, None), error
        return
    raise SystemExit(f"{kind.__name__} was expected, and there was none")


def wrap_there(client: KeyClient, name: str, version: str | None = None) -> tuple[str, bytes]:
    """Wraps in the vault; the SDK's public part would do it with the public key."""
    parameters = client._models.KeyOperationsParameters(algorithm=OAEP, value=SECRET)
    answer = client._client.wrap_key(name, version or "", parameters)
    return answer.kid, answer.result


def wrapping(client: KeyClient, crypto, name: str) -> None:
    key = client.get_key(name)
    assert key.key_type == "RSA" and len(key.key.n) == 384 and key.properties.enabled
    here = crypto(key).wrap_key(OAEP, SECRET)
    assert here.key_id == key.id and len(here.encrypted_key) == 384
    opened = crypto(key).unwrap_key(OAEP, here.encrypted_key)
    assert opened.key == SECRET and opened.key_id == key.id
    kid, wrapped = wrap_there(client, name)
    assert kid == key.id and crypto(key).unwrap_key(OAEP, wrapped).key == SECRET

    damaged = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    refused(HttpResponseError, 400, lambda: crypto(key).unwrap_key(OAEP, damaged))
    refused(HttpResponseError, 400, lambda: crypto(key).unwrap_key(KeyWrapAlgorithm.rsa_oaep, wrapped))
    other = client.get_key("other")
    refused(HttpResponseError, 400, lambda: crypto(other).unwrap_key(OAEP, wrapped))
    refused(ResourceNotFoundError, 404, lambda: client.get_key("missing"))


def versions(client: KeyClient, crypto, name: str) -> None:
    first = client.get_key(name)
    _, old = wrap_there(client, name)
    second = client.rotate_key(name)
    assert second.properties.version != first.properties.version
    assert client.get_key(name).id == second.id and wrap_there(client, name)[0] == second.id
    assert crypto(first).unwrap_key(OAEP, old).key == SECRET
    refused(HttpResponseError, 400, lambda: crypto(second).unwrap_key(OAEP, old))

    client.update_key_properties(name, first.properties.version, enabled=False)
    assert not client.get_key(name, first.properties.version).properties.enabled
    refused(HttpResponseError, 403, lambda: crypto(first).unwrap_key(OAEP, old))
    client.update_key_properties(name, first.properties.version, enabled=True)
    assert crypto(first).unwrap_key(OAEP, old).key == SECRET


def troubles(client: KeyClient, name: str, control: str) -> None:
    for trouble, status in [("denied", 403), ("disabled", 403), ("throttled", 429), ("broken", 500)]:
        order = urllib.request.Request(f"{control}?trouble={trouble}", method="POST")
        assert json.load(urllib.request.urlopen(order))["trouble"] == trouble
        refused(HttpResponseError, status, lambda: client.get_key(name))
    urllib.request.urlopen(urllib.request.Request(f"{control}?trouble=none", method="POST")).close()


def lead_to(port: int) -> None:
    """The SDK compares host and port with the challenge's, so the fake must seem to be at the port of https."""
    resolve = socket.getaddrinfo

    def there(host, service, *rest, **options):
        if str(host).endswith("localhost") and service == 443:
            return resolve("127.0.0.1", port, *rest, **options)
        return resolve(host, service, *rest, **options)

    socket.getaddrinfo = there


def main() -> int:
    fakes = subprocess.Popen([sys.argv[1], "azure"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        fake = json.loads(fakes.stdout.readline())
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as ca:
            ca.write(fake["ca_pem"])
            ca.flush()
            lead_to(int(fake["address"].rsplit(":", 1)[1]))
            vault = f"https://{fake['host']}"
            plain = {"connection_verify": ca.name, "retry_total": 0}
            credential = Credential(fake, ca.name, fake["client_secret"])
            client = KeyClient(vault, credential, **plain)

            def crypto(key):
                return CryptographyClient(key, credential, **plain)

            wrapping(client, crypto, fake["key"])
            versions(client, crypto, fake["key"])
            troubles(client, fake["key"], fake["control"])
            stranger = KeyClient(vault, Credential(fake, ca.name, "not the secret"), **plain)
            refused(ClientAuthenticationError, 401, lambda: stranger.get_key(fake["key"]))
    finally:
        fakes.stdin.close()
        fakes.wait(timeout=10)
    print("Microsoft's SDK takes the fake for Azure Key Vault: challenge, wrapping, versions, troubles")
    return 0


if __name__ == "__main__":
    sys.exit(main())
