#!/usr/bin/env python3
"""The image of examples/deploy: made, looked at, and run as a container engine would.

    python tests/deploy/image.py FOLDER path/to/relay      # as root

FOLDER holds `context`, from which buildah makes the image. Its root is given to crun with what engines give it: a
read-only mount, user 65532, no capability, no new privileges, volumes. The second argument, an ordinary relay, stands
for the vendor.
"""

import http.client
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

USER = 65532
PATH = "/usr/bin"
CREDENTIAL = "sk-deploy-0123456789abcdefghijklmnop"


def main() -> int:
    work, vendor_program = Path(sys.argv[1]).resolve(), sys.argv[2]
    is_static(work / "context/target/release/relay")
    image = Image(work)
    container = Container(work, image)
    vendor = None
    try:
        container.runs_init()
        container.cannot_write_its_root()
        vendor, origin = start_vendor(vendor_program, work)
        shutil.copy(work / "ca.pem", container.config / "vendor-ca.pem")
        container.describe(origin)
        first = container.start()
        is_closed(container)
        secret = container.call("secret", "add", "--customer", "acme", "--integration", "demo", stdin=CREDENTIAL)
        token = container.call("token", "mint", "--customer", "acme")
        uses(container, secret, token)
        container.is_healthy()
        container.stop()
        # What it keeps is in its volumes.
        second = container.start()
        uses(container, secret, token)
        print(container.call("audit", "verify").splitlines()[-1])
        container.stop()
    finally:
        container.end()
        if vendor is not None:
            vendor.kill()
            vendor.wait()
        image.remove()
    print(
        f"image size={image.size} compressed={image.compressed} start_to_ready_ms={min(first, second):.0f} "
        f"uid={USER} readonly=yes capabilities=none files={image.files}"
    )
    return 0


def is_static(program: Path) -> None:
    """No interpreter is named, and no library."""
    data = program.read_bytes()
    assert data[:5] == b"\x7fELF\x02", "not a 64-bit ELF file"
    at, (size, count) = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<HH", data, 54)
    kinds = {}
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, at + number * size)
        kinds[kind] = data[offset : offset + length]
    interp, dynamic = 3, 2
    assert interp not in kinds, f"it needs {kinds[interp]}"
    needed = 1
    tags = [tag for tag, _ in struct.iter_unpack("<qQ", kinds.get(dynamic, b""))]
    assert needed not in tags, "it needs shared libraries"


class Image:
    """Made without a daemon, in a storage of its own."""

    def __init__(self, work: Path) -> None:
        self.buildah = [
            "buildah", "--storage-driver", "vfs", "--root", str(work / "storage"), "--runroot", str(work / "runroot"),
        ]
        context = work / "context"
        file = context / "examples/deploy/Containerfile"
        # Docker's format: OCI's has no health check.
        self.do("bud", "--quiet", "--isolation", "chroot", "--format", "docker", "-f", str(file), "-t", "relay", str(context))
        described = json.loads(self.do("inspect", "--type", "image", "relay"))["Docker"]["config"]
        assert described["User"] == f"{USER}:{USER}", described
        assert described["Entrypoint"] == ["/usr/bin/relay"] and described["Cmd"] == ["run"], described
        assert set(described["Volumes"]) == {"/var/lib/relay", "/var/log/relay"}, described
        assert described["Healthcheck"]["Test"] == ["CMD", "relay", "health"], described
        self.environment, self.folder = described["Env"], described["WorkingDir"]
        self.entry, self.command = described["Entrypoint"], described["Cmd"]
        self.health = described["Healthcheck"]["Test"][1:]
        archive = work / "image.tar"
        self.do("push", "--quiet", "relay", f"oci-archive:{archive}")
        self.compressed = archive.stat().st_size
        self.name = self.do("from", "--quiet", "relay").strip()
        self.root = Path(self.do("mount", self.name).strip())
        files = [path for path in self.root.rglob("*") if path.is_file() and path.name != ".keep"]
        # buildah itself puts nothing in; an engine adds /etc/hosts and the like when it runs.
        assert [str(path.relative_to(self.root)) for path in files] == ["usr/bin/relay"], files
        self.files, self.size = len(files), files[0].stat().st_size
        binary = files[0].stat()
        assert (binary.st_uid, binary.st_mode & 0o7777) == (0, 0o555), oct(binary.st_mode)
        for folder in ("etc/relay", "var/lib/relay", "var/log/relay"):
            assert (self.root / folder).stat().st_uid == USER, folder
        for folder in (".", "etc", "var", "usr", "usr/bin"):
            assert (self.root / folder).stat().st_uid == 0, folder

    def do(self, *words: str) -> str:
        done = subprocess.run([*self.buildah, *words], text=True, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(f"buildah {' '.join(words)}: {done.stderr}")
        return done.stdout

    def remove(self) -> None:
        self.do("umount", self.name)
        self.do("rm", self.name)


class Container:
    """The image's root under crun, with three volumes that stay."""

    def __init__(self, work: Path, image: Image) -> None:
        self.image, self.state, self.bundle = image, work / "crun", work / "bundle"
        self.config, self.data, self.audit = (work / name for name in ("config", "data", "audit"))
        self.bundle.mkdir()
        for volume in (self.config, self.data, self.audit):
            volume.mkdir(mode=0o700)
            os.chown(volume, USER, USER)
        work.chmod(0o711)
        self.app, self.admin = free_port(), free_port()
        self.process = None
        self.running = None

    def crun(self, *words: str, **more) -> subprocess.CompletedProcess:
        command = ["crun", "--root", str(self.state), "--cgroup-manager=disabled", *words]
        return subprocess.run(command, text=True, capture_output=True, timeout=60, **more)

    def set_up(self, arguments: list[str]) -> None:
        """What an engine would hand to its runtime, by the OCI runtime specification."""
        def bind(source: Path, place: str, how: str) -> dict:
            return {
                "destination": place, "source": str(source), "type": "bind",
                "options": ["bind", how, "nosuid", "nodev", "noexec"],
            }
        # The host's network stands for a published port.
        namespaces = [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]
        (self.bundle / "config.json").write_text(json.dumps({
            "ociVersion": "1.0.2",
            "root": {"path": str(self.image.root), "readonly": True},
            "hostname": "relay",
            "process": self.as_image_says([*self.image.entry, *arguments]),
            "mounts": [
                {"destination": "/proc", "source": "proc", "type": "proc"},
                {"destination": "/dev", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
                bind(self.config, "/etc/relay", "rw" if arguments[0] == "init" else "ro"),
                bind(self.data, "/var/lib/relay", "rw"),
                bind(self.audit, "/var/log/relay", "rw"),
            ],
            "linux": {"namespaces": namespaces},
        }))

    def as_image_says(self, words: list[str], environment: tuple = ()) -> dict:
        return {
            "user": {"uid": USER, "gid": USER},
            "args": words,
            "env": [*self.image.environment, *environment],
            "cwd": self.image.folder,
            "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")},
            "noNewPrivileges": True,
        }

    def once(self, *arguments: str) -> subprocess.CompletedProcess:
        self.set_up(list(arguments))
        return self.crun("run", "--bundle", str(self.bundle), "once", stdin=subprocess.DEVNULL)

    def runs_init(self) -> None:
        done = self.once("init", "--local-issuer", "--dir", "/etc/relay")
        assert done.returncode == 0, done.stdout + done.stderr
        key = (self.config / "relay.key").stat()
        assert (key.st_uid, key.st_mode & 0o777) == (USER, 0o600), oct(key.st_mode)
        # As Kubernetes mounts secrets: root's, and readable by relay's group.
        os.chown(self.config / "relay.key", 0, USER)
        os.chmod(self.config / "relay.key", 0o440)

    def cannot_write_its_root(self) -> None:
        refused = self.once("init", "--dir", "/relay")
        assert refused.returncode == 1 and "Read-only file system" in refused.stderr, refused.stderr

    def describe(self, origin: str) -> None:
        file = self.config / "relay.toml"
        text = file.read_text().split("[integrations.")[0]
        for old, new in (
            ("127.0.0.1:8480", f"0.0.0.0:{self.app}"),
            ("127.0.0.1:8481", f"127.0.0.1:{self.admin}"),
            ('"relay.db"', '"/var/lib/relay/relay.db"'),
            ('"audit.jsonl"', '"/var/log/relay/audit.jsonl"'),
        ):
            assert old in text, f"relay init writes no {old} by now"
            text = text.replace(old, new)
        file.write_text(
            f'{text}\n[integrations.demo]\nupstream = "{origin}"\nca_file = "vendor-ca.pem"\n'
            'private_cidrs = ["127.0.0.0/8"]\ninject = [{ header = "authorization", value = "Bearer {token}" }]\n'
        )

    def start(self) -> float:
        """Milliseconds from the runtime's call until /readyz says yes."""
        self.set_up(self.image.command)
        log = open(self.bundle / "log", "a")
        begun = time.monotonic()
        self.process = subprocess.Popen(
            ["crun", "--root", str(self.state), "--cgroup-manager=disabled", "run", "--bundle", str(self.bundle), "relay"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )
        while not self.ready():
            assert self.process.poll() is None and time.monotonic() - begun < 30, (self.bundle / "log").read_text()
            time.sleep(0.002)
        took = (time.monotonic() - begun) * 1000
        self.running = json.loads(self.crun("state", "relay").stdout)["pid"]
        return took

    def ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def inside(self, words: list[str], environment: tuple = (), **more) -> subprocess.CompletedProcess:
        """Another process in the running container, as engines start one."""
        process = self.bundle / "process.json"
        process.write_text(json.dumps(self.as_image_says(words, environment)))
        return self.crun("exec", "--process", str(process), "relay", **more)

    def call(self, *words: str, stdin: str = "") -> str:
        done = self.inside(["relay", *words], input=stdin)
        assert done.returncode == 0, f"relay {words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def is_healthy(self) -> None:
        """The image's own health check, and that it can say no."""
        done = self.inside(self.image.health)
        assert done.returncode == 0 and re.search(r"^store +ok$", done.stdout, re.M), done.stdout + done.stderr
        done = self.inside(self.image.health, ("RELAY__SERVER__ADMIN_LISTEN=127.0.0.1:9",))
        assert done.returncode == 4, done.stdout + done.stderr

    def stop(self) -> None:
        """SIGTERM, as an engine stops one."""
        assert self.crun("kill", "relay", "TERM").returncode == 0
        assert self.process.wait(timeout=40) == 0, (self.bundle / "log").read_text()
        self.process = None

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.crun("kill", "relay", "KILL")
            self.process.wait(timeout=20)


def is_closed(container: Container) -> None:
    """What the kernel says of the running process."""
    process = Path("/proc") / str(container.running)
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(USER)] * 4 and status["Gid"].split() == [str(USER)] * 4, status
    for rights in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[rights], 16) == 0, (rights, status[rights])
    assert status["NoNewPrivs"] == "1", status["NoNewPrivs"]
    root = [line.split() for line in (process / "mountinfo").read_text().splitlines() if line.split()[4] == "/"]
    assert root and "ro" in root[-1][5].split(","), root
    limits = (process / "limits").read_text()
    assert re.search(r"Max core file size +0 +0", limits), limits


def uses(container: Container, secret: str, token: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", container.app, timeout=30)
    connection.request("GET", f"/demo/{secret}/hello", headers={"authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    assert answer.status == 200, body
    # The vendor says what it was given: 8 characters, and how many more.
    assert f'"i_was_given":"Bearer [{CREDENTIAL[:8]} + {len(CREDENTIAL) - 8}]"' in body, body


def start_vendor(program: str, work: Path) -> tuple[subprocess.Popen, str]:
    vendor = subprocess.Popen(
        [program, "dev", "--vendor-only", "--listen", "127.0.0.1:0", "--ca-out", str(work / "ca.pem")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )
    origin = vendor.stdout.readline().strip()
    assert origin.startswith("https://"), "the built-in vendor does not start"
    return vendor, origin


def free_port() -> int:
    with socket.socket() as any_socket:
        any_socket.bind(("127.0.0.1", 0))
        return any_socket.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
