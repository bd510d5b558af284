#!/usr/bin/env python3
"""The fake of AWS KMS, as AWS's own SDK for Python sees it: what it gives, and what it refuses.

    python tests/sdk/kms_fakes.py path/to/fakes

The argument is the executable of `cargo test --test fakes`. Needs tests/sdk/requirements-kms.txt. So the fake
is not made to fit relay's own client. Fails at the first thing that is not as AWS documents it.
"""

import json
import subprocess
import sys
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

CONTEXT = {"relay:customer": "acme \u2603", "relay:data-key": "0190"}


def main() -> int:
    fakes = subprocess.Popen([sys.argv[1], "aws"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        said = json.loads(fakes.stdout.readline())
        client = boto3.client(
            "kms", endpoint_url=said["address"], region_name=said["region"], aws_access_key_id="AKIDEXAMPLE",
            aws_secret_access_key="not-a-real-secret-key",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=1, proxies={}),
        )
        keys_and_contexts(client, *said["keys"])
        versions(client, *said["keys"])
        states(client, said["keys"][0])
        troubles(client, said["keys"][0], said["control"])
    finally:
        fakes.stdin.close()
        assert fakes.wait(timeout=10) == 0, "the fakes did not end with their standard input"
    print("aws: boto3 wraps, opens, re-encrypts and rotates; each refusal is the exception that AWS has for it")
    return 0


def refused(exception: str, call, **arguments) -> None:
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["Error"]["Code"] == exception, error
        # botocore makes a class of its own of each exception that the service's model has.
        assert type(error).__name__ in (exception, "ClientError"), error
        return
    raise AssertionError(f"{exception} was expected")


def keys_and_contexts(kms, key: str, other: str) -> None:
    made = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT)
    blob = made["CiphertextBlob"]
    assert len(made["Plaintext"]) == 32 and made["KeyId"] == key and len(made["KeyMaterialId"]) == 64, made
    opened = kms.decrypt(CiphertextBlob=blob, KeyId=key, EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == made["Plaintext"] and opened["KeyId"] == key, opened
    assert opened["KeyMaterialId"] == made["KeyMaterialId"] and opened["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
    # The id alone names the key too, and the order of the context's pairs is nothing.
    turned = dict(reversed(CONTEXT.items()))
    assert kms.decrypt(CiphertextBlob=blob, KeyId=key.rsplit("/")[-1], EncryptionContext=turned)["KeyId"] == key
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["KeyId"] == key
    wrapped = kms.encrypt(KeyId=key, Plaintext=b"k" * 32, EncryptionContext=CONTEXT)
    assert kms.decrypt(CiphertextBlob=wrapped["CiphertextBlob"], EncryptionContext=CONTEXT)["Plaintext"] == b"k" * 32
    assert len(kms.generate_data_key(KeyId=key, NumberOfBytes=16)["Plaintext"]) == 16
    bent = bytes([*blob[:-1], blob[-1] ^ 1])
    refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=bent, KeyId=key, EncryptionContext=CONTEXT)
    for wrong in ({}, {**CONTEXT, "relay:customer": "globex"}, {**CONTEXT, "more": "1"}):
        refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=blob, KeyId=key, EncryptionContext=wrong)
    refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=b"garbage", KeyId=key)
    refused("IncorrectKeyException", kms.decrypt, CiphertextBlob=blob, KeyId=other, EncryptionContext=CONTEXT)
    refused("NotFoundException", kms.encrypt, KeyId=key[:-1] + "9", Plaintext=b"k")
    refused("NotFoundException", kms.describe_key, KeyId="alias/relay")


def versions(kms, key: str, other: str) -> None:
    made = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=CONTEXT)
    old = made["CiphertextBlob"]
    assert kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"] == made["KeyMaterialId"]
    assert kms.rotate_key_on_demand(KeyId=key)["KeyId"] == key
    newest = kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]
    assert newest != made["KeyMaterialId"]
    assert kms.decrypt(CiphertextBlob=old, EncryptionContext=CONTEXT)["Plaintext"] == made["Plaintext"]
    elsewhere = {**CONTEXT, "relay:customer": "globex"}
    moved = kms.re_encrypt(
        CiphertextBlob=old, SourceKeyId=key, SourceEncryptionContext=CONTEXT, DestinationKeyId=key,
        DestinationEncryptionContext=elsewhere,
    )
    assert (moved["SourceKeyMaterialId"], moved["DestinationKeyMaterialId"]) == (made["KeyMaterialId"], newest), moved
    opened = kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], KeyId=key, EncryptionContext=elsewhere)
    assert opened["Plaintext"] == made["Plaintext"]
    refused(
        "InvalidCiphertextException", kms.re_encrypt, CiphertextBlob=old, SourceEncryptionContext=elsewhere,
        DestinationKeyId=key,
    )
    refused(
        "IncorrectKeyException", kms.re_encrypt, CiphertextBlob=old, SourceKeyId=other,
        SourceEncryptionContext=CONTEXT, DestinationKeyId=key,
    )


def states(kms, key: str) -> None:
    blob = kms.encrypt(KeyId=key, Plaintext=b"k" * 32)["CiphertextBlob"]
    kms.disable_key(KeyId=key)
    refused("DisabledException", kms.decrypt, CiphertextBlob=blob, KeyId=key)
    refused("DisabledException", kms.generate_data_key, KeyId=key, KeySpec="AES_256")
    kms.enable_key(KeyId=key)
    kms.schedule_key_deletion(KeyId=key)
    refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=blob, KeyId=key)
    kms.cancel_key_deletion(KeyId=key)
    kms.enable_key(KeyId=key)
    assert kms.decrypt(CiphertextBlob=blob, KeyId=key)["Plaintext"] == b"k" * 32


def troubles(kms, key: str, control: str) -> None:
    def order(words: str) -> dict:
        with urllib.request.urlopen(urllib.request.Request(f"{control}?{words}", method="POST"), timeout=5) as answer:
            return json.load(answer)

    for trouble, exception in (
        ("throttled", "ThrottlingException"), ("broken", "KMSInternalException"),
        ("disabled", "DisabledException"), ("denied", "AccessDeniedException"),
    ):
        order(f"trouble={trouble}")
        refused(exception, kms.encrypt, KeyId=key, Plaintext=b"k")
    order("trouble=black_hole")
    try:
        kms.encrypt(KeyId=key, Plaintext=b"k")
        raise AssertionError("a black hole answered")
    except ReadTimeoutError:
        pass
    calls = order("trouble=none&latency_ms=20")["calls"]
    kms.encrypt(KeyId=key, Plaintext=b"k")
    assert order("latency_ms=0")["calls"]["Encrypt"] == calls["Encrypt"] + 1, calls


if __name__ == "__main__":
    sys.exit(main())
