"""The official Slack SDK through relay: only base_url and token are changed.

    pip install slack_sdk
    relay dev                                   # in one terminal
    eval "$(relay env)"                         # in another
    python examples/slack_through_relay.py

The token is the caller's, not Slack's. The vendor of `relay dev` puts the credential that it was given into
its answer, so that it can be seen that relay takes it out again.
"""

import os
import sys

from slack_sdk import WebClient

# What `relay dev` seeds. Nothing that an app gets may hold it.
CREDENTIAL = "sk-demo-not-a-real-key"


def main() -> int:
    try:
        url, secret, token = (os.environ[name] for name in ("RELAY_URL", "RELAY_SECRET", "RELAY_TOKEN"))
    except KeyError as missing:
        print(f'{missing.args[0]} is not set: eval "$(relay env)"', file=sys.stderr)
        return 2

    client = WebClient(token=token, base_url=f"{url}/demo/{secret}/api/")
    who = client.auth_test()
    print("signed in as", who["user"], "of", who["team"])
    print("the vendor was given:", who["i_was_given"])

    posted = client.chat_postMessage(channel="C00000000", text="hello through relay")
    print("posted:", posted["message"]["text"])

    if posted["message"]["text"] != "hello through relay":
        print("the answer is not the vendor's", file=sys.stderr)
        return 1
    if CREDENTIAL in str(who.data) + str(posted.data):
        print("an answer holds the credential", file=sys.stderr)
        return 1
    print("neither answer holds the credential")
    return 0


if __name__ == "__main__":
    sys.exit(main())
