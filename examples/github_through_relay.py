"""PyGithub through relay: only base_url and the token are changed.

    pip install PyGithub
    relay dev                                   # in one terminal
    eval "$(relay env)"                         # in another
    python examples/github_through_relay.py

The token is the caller's, not GitHub's. The vendor of `relay dev` answers any path with what it was given, so
that it can be seen that relay put the credential in and takes it out again.
"""

import os
import sys

from github import Auth, Github

# What `relay dev` seeds. Nothing that an app gets may hold it.
CREDENTIAL = "sk-demo-not-a-real-key"


def main() -> int:
    try:
        url, secret, token = (os.environ[name] for name in ("RELAY_URL", "RELAY_SECRET", "RELAY_TOKEN"))
    except KeyError as missing:
        print(f'{missing.args[0]} is not set: eval "$(relay env)"', file=sys.stderr)
        return 2

    github = Github(base_url=f"{url}/demo/{secret}", auth=Auth.Token(token))
    user = github.get_user().raw_data
    print("asked for", user["path"])
    print("the vendor was given:", user["i_was_given"])

    if user["path"] != "/user" or user["your_token_reached_me"] or not user["i_was_given"]:
        print("the answer is not the vendor's, or the caller's token came through", file=sys.stderr)
        return 1
    if CREDENTIAL in str(user):
        print("the answer holds the credential", file=sys.stderr)
        return 1
    print("the answer does not hold the credential")
    return 0


if __name__ == "__main__":
    sys.exit(main())
