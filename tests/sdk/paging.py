#!/usr/bin/env python3
"""PyGithub, python-gitlab and Octokit page through `relay run` and follow the URLs that the answers name.

    python tests/sdk/paging.py path/to/relay folder/for/node_modules

The vendors here answer as GitHub and GitLab do: `Link` fields and JSON full of absolute URLs of their own
origin. The SDKs trust the vendors' certificates, so a request that goes round relay arrives, and is counted:
each request at a vendor must carry the injected credential and never the caller's token, and a vendor that no
SDK was pointed at must see none. A last run, without `rewrite`, must go round relay, or the count proves
nothing. Needs tests/sdk/requirements.txt, openssl, and node with npm.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import gitlab
from github import Auth, Github

from on_disk import Relay

HERE = Path(__file__).resolve().parent
REPOS, ISSUES, A_PAGE = 9, 5, 2
REWRITE = 'rewrite = ["json"]\n'


class Vendor(ThreadingHTTPServer):
    """An origin of its own that keeps every request's head."""

    daemon_threads = True

    def __init__(self, certificate: ssl.SSLContext, answers: type | None = None) -> None:
        super().__init__(("127.0.0.1", 0), answers or Answers)
        self.certificate, self.seen = certificate, []
        self.origin = f"https://localhost:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, client_address):
        # In the connection's own thread, so that a client that never speaks holds up nobody.
        with self.certificate.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request, client_address):
        pass


class Answers(BaseHTTPRequestHandler):
    """GitHub's and GitLab's way to page; `/api/v3` is GitHub on a company's own server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, str(self.headers)))
        there = urlsplit(self.path)
        page = int(parse_qs(there.query).get("page", ["1"])[0])
        front = "/api/v3" if there.path.startswith("/api/v3/") else "/api/v4" if there.path.startswith("/api/v4/") else ""
        words = there.path[len(front):].strip("/").split("/")
        base = self.server.origin + front
        if front == "/api/v4":
            found, total = gitlab_answer(base, words)
        else:
            found, total = github_answer(base, words)
        links = ""
        if total is not None:
            found = found[(page - 1) * A_PAGE : page * A_PAGE]
            last = -(-total // A_PAGE)
            at = lambda n: f"<{self.server.origin}{there.path}?page={n}&per_page={A_PAGE}>"
            steps = [f'{at(page + 1)}; rel="next"'] if page < last else []
            links = ", ".join([*steps, f'{at(1)}; rel="first"', f'{at(last)}; rel="last"'])
        self.answer(found, links)

    def answer(self, found, links: str) -> None:
        # Rails and Go write & so.
        body = json.dumps(found, indent=1).replace("&", "\\u0026").encode()
        self.send_response(200 if found is not None else 404)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", '"1"')
        if links:
            self.send_header("link", links)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def github_answer(base: str, words: list) -> tuple:
    match words:
        case ["user"]:
            return user(base), None
        case ["user", "repos"]:
            return [repo(base, n) for n in range(1, REPOS + 1)], REPOS
        case ["repos", "acme", name]:
            return repo(base, int(name[1:])), None
        case ["repos", "acme", name, "issues"]:
            return [issue(base, name, n) for n in range(1, ISSUES + 1)], ISSUES
        case ["repos", "acme", name, "issues", number]:
            return issue(base, name, int(number)), None
        case ["repos", "acme", _, "issues", _, "comments"]:
            return [{"id": n, "url": f"{base}/comments/{n}", "body": f"see {base}/user"} for n in (1, 2, 3)], 3
    return None, None


def user(base: str) -> dict:
    return {"login": "acme", "id": 1, "type": "User", "url": f"{base}/user", "repos_url": f"{base}/user/repos?a=1&b=2"}


def repo(base: str, n: int) -> dict:
    url = f"{base}/repos/acme/r{n}"
    return {
        "id": n, "name": f"r{n}", "full_name": f"acme/r{n}", "owner": user(base), "url": url,
        "html_url": f"https://github.example/acme/r{n}", "issues_url": url + "/issues{/number}",
        "contents_url": url + "/contents/{+path}", "size": 12345678901234567890,
    }


def issue(base: str, name: str, n: int) -> dict:
    url = f"{base}/repos/acme/{name}"
    return {
        "id": n, "number": n, "title": f"issue {n}", "url": f"{url}/issues/{n}", "repository_url": url,
        "comments_url": f"{url}/issues/{n}/comments", "comments": 3, "user": user(base), "state": "open",
    }


def gitlab_answer(base: str, words: list) -> tuple:
    match words:
        case ["projects"]:
            return [project(base, n) for n in range(1, REPOS + 1)], REPOS
        case ["projects", number]:
            return project(base, int(number)), None
        case ["projects", number, "issues"]:
            return [{"id": n, "iid": n, "project_id": int(number), "title": f"{n}"} for n in range(1, ISSUES + 1)], ISSUES
    return None, None


def project(base: str, n: int) -> dict:
    url = f"{base}/projects/{n}"
    return {"id": n, "name": f"p{n}", "_links": {"self": url, "issues": f"{url}/issues?scope=all&state=opened"}}


def main() -> int:
    program, modules = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    node_at(modules, "paging.mjs")
    with tempfile.TemporaryDirectory(prefix="relay-paging-") as name:
        folder = Path(name)
        ca, certificate = identity(folder)
        # Whoever goes round relay gets through, and is seen.
        os.environ["REQUESTS_CA_BUNDLE"] = os.environ["NODE_EXTRA_CA_CERTS"] = str(ca)
        hub, lab, trap = Vendor(certificate), Vendor(certificate), Vendor(certificate)
        relay = Relay(program, folder / "relay")
        credential = "sk-" + secrets.token_urlsafe(30)
        try:
            added, token = set_up(relay, ca, credential, hub, lab, trap)
            base = {name: f"{relay.url}/{name}/{secret}" for name, secret in added.items()}
            pygithub(base["github"], token)
            pygithub(base["company"], token)
            python_gitlab(base["gitlab"], token)
            octokit(modules, base["github"], token)
            octokit(modules, base["company"], token)
            stayed(credential, token, hub, lab, trap)
            audited(relay, {"github", "company", "gitlab"})
            control(modules, base["plain"], token, hub)
            relay.stop()
        finally:
            if relay.process is not None and relay.process.poll() is None:
                relay.process.kill()
                relay.process.wait()
    return 0


def set_up(relay: Relay, ca: Path, credential: str, hub: Vendor, lab: Vendor, trap: Vendor) -> tuple:
    relay.call("init", "--local-issuer", "--dir", str(relay.folder))
    bearer = '{ header = "authorization", value = "Bearer {token}" }'
    integrations = [
        ("github", hub.origin, bearer, REWRITE),
        ("company", hub.origin + "/api/v3", bearer, REWRITE),
        ("gitlab", lab.origin, '{ header = "private-token", value = "{token}" }', REWRITE),
        ("plain", hub.origin, bearer, ""),
        ("other", trap.origin, bearer, REWRITE),
    ]
    text = Path(relay.config).read_text().split("[integrations.")[0]
    for name, origin, placed, rewrite in integrations:
        text += (
            f'[integrations.{name}]\nupstream = "{origin}"\ninject = [{placed}]\n{rewrite}'
            f'ca_file = "{ca}"\nprivate_cidrs = ["127.0.0.0/8", "::1/128"]\n\n'
        )
    Path(relay.config).write_text(text)
    relay.start()
    add = ("secret", "add", "--customer", "acme", "--label", "x", "--config", relay.config, "--integration")
    added = {name: relay.call(*add, name, stdin=credential) for name, *_ in integrations}
    return added, relay.call("token", "mint", "--customer", "acme", "--config", relay.config)


def pygithub(base: str, token: str) -> None:
    me = Github(base_url=base, auth=Auth.Token(token), per_page=A_PAGE, retry=None).get_user()
    repos, issues, comments = list(me.get_repos()), 0, 0
    for repository in repos:
        # Chained calls go to what `url` says in the JSON.
        for found in repository.get_issues():
            issues += 1
        comments += len(list(found.get_comments()))
        assert found.repository.name == repository.name
    assert (len(repos), issues, comments) == (REPOS, REPOS * ISSUES, REPOS * 3), (len(repos), issues, comments)
    print(f"PyGithub:      {len(repos)} repositories, {issues} issues, {comments} comments")


def python_gitlab(base: str, token: str) -> None:
    client = gitlab.Gitlab(base, private_token=token, per_page=A_PAGE)
    projects = list(client.projects.list(iterator=True))
    issues = sum(len(list(found.issues.list(iterator=True))) for found in projects)
    followed = [client.http_get(found._links["self"])["id"] for found in projects]
    listed = sum(len(client.http_get(found._links["issues"])) for found in projects)
    assert (len(projects), issues) == (REPOS, REPOS * ISSUES), (len(projects), issues)
    assert followed == [found.id for found in projects] and listed == REPOS * A_PAGE
    print(f"python-gitlab: {len(projects)} projects, {issues} issues, {len(followed)} links followed")


def octokit(modules: Path, base: str, token: str) -> None:
    seen = run_octokit(modules, base, token)
    assert seen == {"repos": REPOS, "followed": REPOS, "issues": REPOS * ISSUES, "templated": REPOS}, seen
    print(f"Octokit:       {seen}")


def run_octokit(modules: Path, base: str, token: str) -> dict:
    done = subprocess.run(
        ["node", str(modules / "paging.mjs"), base, token], text=True, capture_output=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def stayed(credential: str, token: str, hub: Vendor, lab: Vendor, trap: Vendor) -> None:
    """Every request came through relay: the injected credential is in it, the caller's token is not."""
    came = [*hub.seen, *lab.seen]
    assert len(came) > 100, "the SDKs asked for next to nothing"
    round_relay = [path for path, head in came if credential not in head or token in head or token in path]
    print(f"{len(came)} requests at the vendors, {len(round_relay)} round relay, {len(trap.seen)} at another integration")
    assert not round_relay, round_relay[:5]
    assert not trap.seen, trap.seen[:5]


def audited(relay: Relay, names: set) -> None:
    records = [json.loads(line) for line in (relay.folder / "audit.jsonl").read_text().splitlines()]
    refused = [record for record in records if record["kind"] == "refused"]
    used = {record["integration"] for record in records if record["kind"] == "intent"}
    assert not refused, refused[:3]
    assert used == names, used


def control(modules: Path, base: str, token: str, hub: Vendor) -> None:
    """Without `rewrite` Octokit takes the caller's token to the vendor: this test would see it."""
    before = len(hub.seen)
    run_octokit(modules, base, token)
    leaked = sum(token in head for _, head in hub.seen[before:])
    assert leaked > 0, "nothing goes round relay even without rewrite: the count proves nothing"
    print(f"control: without rewrite {leaked} requests go round relay with the caller's token")


def node_at(modules: Path, script: str) -> None:
    """The SDKs for Node and a script that uses them, in a folder outside the sources."""
    modules.mkdir(parents=True, exist_ok=True)
    for file in ("package.json", "package-lock.json", script):
        shutil.copy(HERE / file, modules / file)
    installed = modules / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime > (HERE / "package-lock.json").stat().st_mtime:
        return
    subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], cwd=modules, check=True,
        stdin=subprocess.DEVNULL, timeout=300,
    )


def identity(folder: Path) -> tuple:
    """A certificate for localhost by an authority of its own."""
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl = lambda *words: subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=paging")
    openssl("req", *new[:-2], "-keyout", "key.pem", "-out", "leaf.csr", "-subj", "/CN=localhost")
    (folder / "leaf.cnf").write_text("subjectAltName=DNS:localhost,DNS:*.my.localhost\nbasicConstraints=CA:FALSE\n")
    openssl(
        "x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-extfile", "leaf.cnf", "-out", "cert.pem",
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "ca.pem", context


if __name__ == "__main__":
    sys.exit(main())
