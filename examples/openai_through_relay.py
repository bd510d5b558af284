"""The official OpenAI SDK through relay: only base_url and api_key are changed.

    pip install openai
    relay dev                                   # in one terminal
    eval "$(relay env)"                         # in another
    python examples/openai_through_relay.py

The api_key is the caller's token, not the credential. The vendor of `relay dev` puts the credential that it
was given into its answers, so that it can be seen that relay takes it out again.
"""

import os
import sys

from openai import OpenAI

# What `relay dev` seeds. Nothing that an app gets may hold it.
CREDENTIAL = "sk-demo-not-a-real-key"


def main() -> int:
    try:
        url, secret, token = (os.environ[name] for name in ("RELAY_URL", "RELAY_SECRET", "RELAY_TOKEN"))
    except KeyError as missing:
        print(f'{missing.args[0]} is not set: eval "$(relay env)"', file=sys.stderr)
        return 2

    client = OpenAI(base_url=f"{url}/demo/{secret}/v1", api_key=token)
    messages = [{"role": "user", "content": "hello through relay"}]

    answer = client.chat.completions.create(model="relay-dev", messages=messages)
    whole = answer.choices[0].message.content or ""
    print("whole:   ", whole)

    streamed = ""
    print("streamed: ", end="")
    for chunk in client.chat.completions.create(model="relay-dev", messages=messages, stream=True):
        piece = chunk.choices[0].delta.content or "" if chunk.choices else ""
        streamed += piece
        print(piece, end="", flush=True)
    print()

    if not all("hello through relay" in text for text in (whole, streamed)):
        print("the answers are not the vendor's", file=sys.stderr)
        return 1
    if any(CREDENTIAL in text for text in (whole, streamed)):
        print("an answer holds the credential", file=sys.stderr)
        return 1
    print("neither answer holds the credential")
    return 0


if __name__ == "__main__":
    sys.exit(main())
