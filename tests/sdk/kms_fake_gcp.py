#!/usr/bin/env python3
"""The fake of Google Cloud KMS, used by Google's own SDK: what relay is tested against answers as Google does.

    python tests/sdk/kms_fake_gcp.py path/to/fakes

Needs tests/sdk/requirements-kms-gcp.txt. Starts the program built from tests/fakes, and fails at the first
answer that the SDK does not take for Google's.
"""

import json
import subprocess
import sys
import urllib.request

import google_crc32c
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms
from google.cloud.kms_v1.services.key_management_service.transports.rest import KeyManagementServiceRestTransport

State = kms.CryptoKeyVersion.CryptoKeyVersionState
# The SDK would wait and try again for a minute.
ONCE = {"retry": None, "timeout": 5}


def checksum(data: bytes) -> int:
    return google_crc32c.value(data)


class Key:
    """One key of the fake, as a program of Google's customers would use it."""

    def __init__(self, client: kms.KeyManagementServiceClient, name: str) -> None:
        self.client, self.name = client, name

    def encrypt(self, plaintext: bytes, aad: bytes):
        request = {
            "name": self.name,
            "plaintext": plaintext,
            "plaintext_crc32c": checksum(plaintext),
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": checksum(aad),
        }
        answer = self.client.encrypt(request=request, **ONCE)
        assert answer.verified_plaintext_crc32c and answer.verified_additional_authenticated_data_crc32c
        assert answer.ciphertext_crc32c == checksum(answer.ciphertext)
        assert answer.protection_level == kms.ProtectionLevel.SOFTWARE
        assert plaintext not in answer.ciphertext
        return answer

    def decrypt(self, ciphertext: bytes, aad: bytes, ciphertext_crc32c: int | None = None):
        given = checksum(ciphertext) if ciphertext_crc32c is None else ciphertext_crc32c
        request = {
            "name": self.name,
            "ciphertext": ciphertext,
            "ciphertext_crc32c": given,
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": checksum(aad),
        }
        answer = self.client.decrypt(request=request, **ONCE)
        assert answer.plaintext_crc32c == checksum(answer.plaintext)
        return answer

    def primary(self) -> str:
        key = self.client.get_crypto_key(request={"name": self.name}, **ONCE)
        assert key.purpose == kms.CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT
        assert key.primary.state == State.ENABLED
        return key.primary.name

    def set_state(self, version: str, state: State) -> None:
        wanted = {"name": version, "state": state}
        answer = self.client.update_crypto_key_version(
            request={"crypto_key_version": wanted, "update_mask": "state"}, **ONCE
        )
        assert answer.state == state


def refused(status: str, call, *words: str) -> None:
    try:
        call()
    except exceptions.GoogleAPICallError as error:
        told = error.response.json()["error"]
        assert (told["status"], told["code"]) == (status, error.code), error
        for word in words:
            assert word in error.message, error
        return
    raise SystemExit(f"{status} was expected, and there was an answer")


def wrapping(key: Key, other: Key) -> None:
    secret, aad = b"0123456789abcdef0123456789abcdef", b"acme"
    wrapped = key.encrypt(secret, aad)
    assert wrapped.name == f"{key.name}/cryptoKeyVersions/1"
    opened = key.decrypt(wrapped.ciphertext, aad)
    assert opened.plaintext == secret and opened.used_primary
    assert key.encrypt(secret, aad).ciphertext != wrapped.ciphertext

    invalid = "INVALID_ARGUMENT"
    refused(invalid, lambda: key.decrypt(wrapped.ciphertext, b"globex"), "Decryption failed")
    refused(invalid, lambda: other.decrypt(wrapped.ciphertext, aad), "Decryption failed")
    damaged = wrapped.ciphertext[:-1] + bytes([wrapped.ciphertext[-1] ^ 1])
    refused(invalid, lambda: key.decrypt(damaged, aad), "Decryption failed")
    refused(invalid, lambda: key.decrypt(wrapped.ciphertext, aad, 1), "ciphertext_crc32c did not match")


def versions(key: Key) -> None:
    secret, aad = b"0123456789abcdef0123456789abcdef", b"acme"
    first = key.primary()
    old = key.encrypt(secret, aad).ciphertext
    made = key.client.create_crypto_key_version(
        request={"parent": key.name, "crypto_key_version": kms.CryptoKeyVersion()}, **ONCE
    )
    assert made.name == f"{key.name}/cryptoKeyVersions/2" and made.state == State.ENABLED
    assert key.primary() == first, "a new version is not the primary one by itself"
    turned = key.client.update_crypto_key_primary_version(
        request={"name": key.name, "crypto_key_version_id": "2"}, **ONCE
    )
    assert turned.primary.name == made.name == key.primary()
    assert key.client.get_crypto_key_version(request={"name": made.name}, **ONCE).state == State.ENABLED
    assert key.encrypt(secret, aad).name == made.name
    opened = key.decrypt(old, aad)
    assert opened.plaintext == secret and not opened.used_primary

    key.set_state(first, State.DISABLED)
    refused("FAILED_PRECONDITION", lambda: key.decrypt(old, aad), "is not enabled")
    key.set_state(first, State.ENABLED)
    assert key.decrypt(old, aad).plaintext == secret


def troubles(key: Key, control: str) -> None:
    for trouble, status in [
        ("denied", "PERMISSION_DENIED"),
        ("disabled", "FAILED_PRECONDITION"),
        ("throttled", "RESOURCE_EXHAUSTED"),
        ("broken", "INTERNAL"),
    ]:
        order = urllib.request.Request(f"{control}?trouble={trouble}", method="POST")
        assert json.load(urllib.request.urlopen(order))["trouble"] == trouble
        refused(status, lambda: key.encrypt(b"x", b"y"))
    urllib.request.urlopen(urllib.request.Request(f"{control}?trouble=none", method="POST")).close()
    missing = Key(key.client, key.name + "-not")
    refused("NOT_FOUND", lambda: missing.encrypt(b"x", b"y"), "not found")


def main() -> int:
    fakes = subprocess.Popen([sys.argv[1], "gcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        fake = json.loads(fakes.stdout.readline())
        transport = KeyManagementServiceRestTransport(
            host=fake["address"].removeprefix("http://"), url_scheme="http", credentials=AnonymousCredentials()
        )
        client = kms.KeyManagementServiceClient(transport=transport)
        key = Key(client, fake["key"])
        wrapping(key, Key(client, fake["ring"] + "/cryptoKeys/other"))
        versions(key)
        troubles(key, fake["control"])
    finally:
        fakes.stdin.close()
        fakes.wait(timeout=10)
    print("Google's SDK takes the fake for Google Cloud KMS: wrapping, checksums, versions, troubles")
    return 0


if __name__ == "__main__":
    sys.exit(main())
