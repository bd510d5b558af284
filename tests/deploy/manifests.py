#!/usr/bin/env python3
"""What examples/deploy says to Kubernetes and to compose, held against relay itself.

    python tests/deploy/manifests.py path/to/relay

No cluster is asked. Checked is what would only show in one: that each relay.toml is valid, that ports, paths, mounts,
probes and commands fit it and the image, and that nothing runs with more rights than relay needs.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "examples" / "deploy"
USER = 65532
CLOSED = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}
# Where the image lets relay write.
VOLUMES = {"/var/lib/relay", "/var/log/relay"}


def main() -> int:
    relay = str(Path(sys.argv[1]).resolve())
    image = containerfile()
    for name in ("sidecar", "replicas"):
        kubernetes(relay, image, DEPLOY / "kubernetes" / f"{name}.yaml")
    compose(relay, image)
    print("manifests: all fit")
    return 0


def containerfile() -> dict:
    """The instructions, each with all that it was given."""
    found = {}
    for line in (DEPLOY / "Containerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            found.setdefault(word, []).append(rest)
    assert found["FROM"] == ["scratch"], found["FROM"]
    assert found["USER"] == [f"{USER}:{USER}"] and found["WORKDIR"][-1] == "/etc/relay", found
    return found


def check(relay: str, text: str, names: list[str], environment: dict | None = None) -> None:
    """`relay check` over a folder that holds what the manifests mount there."""
    with tempfile.TemporaryDirectory(prefix="relay-manifest-") as name:
        folder = Path(name)
        (folder / "relay.toml").write_text(text)
        for file in names:
            (folder / file).touch(mode=0o600)
            (folder / file).write_text("0123456789abcdef" * 4)
        done = subprocess.run(
            [relay, "check", str(folder / "relay.toml")], env={**os.environ, **(environment or {})}, text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # The check can fail, and reads this very text.
        broken = subprocess.run([relay, "check", "/dev/stdin"], input=text + "\n[nonsense]\n", text=True, capture_output=True)
        assert broken.returncode == 3, broken.stdout + broken.stderr


def kubernetes(relay: str, image: dict, file: Path) -> None:
    objects = [each for each in yaml.safe_load_all(file.read_text()) if each]
    by_kind = {}
    for each in objects:
        assert each["apiVersion"] and each["metadata"]["name"], each
        by_kind.setdefault(each["kind"], []).append(each)
    maps = {each["metadata"]["name"]: each["data"] for each in by_kind["ConfigMap"]}
    budgets = by_kind.get("PodDisruptionBudget", [])
    for kind in ("Deployment", "StatefulSet", "Job"):
        for workload in by_kind.get(kind, []):
            spec = workload["spec"]
            pod = spec["template"]["spec"]
            claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
            if kind != "Job":
                labels = spec["template"]["metadata"]["labels"]
                assert spec["selector"]["matchLabels"].items() <= labels.items(), workload["metadata"]
            relays = [c for c in [*pod.get("initContainers", []), *pod["containers"]] if "/relay:" in c["image"]]
            assert len(relays) == 1, file
            config = pod_files(pod, relays[0], maps, claims)
            one_relay(relay, image, kind, pod, relays[0], config)
    for budget in budgets:
        (served,) = by_kind["StatefulSet"]
        assert budget["spec"]["selector"]["matchLabels"] == served["spec"]["selector"]["matchLabels"]
        assert 0 < budget["spec"]["minAvailable"] < served["spec"]["replicas"], "nobody could ever drain a node"
    for service in by_kind.get("Service", []):
        ports = {port["name"] for c in by_kind["StatefulSet"][0]["spec"]["template"]["spec"]["containers"] for port in c["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        name, (port,) = service["metadata"]["name"], service["spec"]["ports"]
        url = tomllib.loads(maps[name]["relay.toml"])["server"]["public_url"]
        assert url == f"https://{name}.default.svc:{port['port']}", url
    print(f"{file.name}: {len(objects)} objects")


def pod_files(pod: dict, container: dict, maps: dict, claims: set) -> dict:
    """What stands in /etc/relay: the text of relay.toml, and the names of all files."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    for path, mount in mounts.items():
        assert mount["name"] in volumes or mount["name"] in claims, mount
        assert path == "/etc/relay" or path in VOLUMES, f"the image has no folder for {path}"
    assert mounts["/etc/relay"]["readOnly"] is True
    projected = volumes[mounts["/etc/relay"]["name"]]["projected"]
    assert projected["defaultMode"] & 0o037 == 0, "secrets that others could read"
    found = {"names": [], "writable": set(mounts) & VOLUMES}
    for source in projected["sources"]:
        if "configMap" in source:
            found["text"] = maps[source["configMap"]["name"]]["relay.toml"]
        else:
            secret = source["secret"]
            # As the commands at the head of the file make them.
            found["names"] += {
                "relay-secrets": [item["path"] for item in secret["items"]] if "items" in secret
                else ["admin.token", "store.password", "store-ca.pem"],
                "relay-owner": ["store.password"],
                "relay-tls": ["tls.crt", "tls.key"],
            }[secret["name"]]
    return found


def one_relay(relay: str, image: dict, kind: str, pod: dict, container: dict, config: dict) -> None:
    check(relay, config["text"], config["names"])
    written = tomllib.loads(config["text"])
    server = written["server"]
    # The pod's context holds for all that its containers do not say.
    context = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert context["runAsNonRoot"] is True and context["runAsUser"] == USER, context
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}, context
    assert CLOSED.items() <= context.items(), context
    assert pod["securityContext"]["fsGroup"] == USER, "it could not read its secrets"
    assert pod["automountServiceAccountToken"] is False
    if kind == "Job":
        assert container["args"][:2] == ["store", "migrate"] and not {"startupProbe", "livenessProbe"} & container.keys()
        return
    assert str(Path(written["audit"]["path"]).parent) in config["writable"], "the audit is on the read-only root"
    grace = int(server["grace"].removesuffix("s"))
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > grace + sleep, "the kubelet would cut what is under way"
    assert container["resources"]["limits"]["memory"] and "cpu" not in container["resources"]["limits"]
    assert server["admin_listen"].startswith("127.0.0.1:"), server
    entry = image["ENTRYPOINT"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        # Whatever else it is, it must be possible on a loopback that the kubelet is not on.
        (words,) = [container[probe]["exec"]["command"]]
        assert words[:2] == ["relay", "health"] and entry == '["/usr/bin/relay"]' and image["ENV"] == ["PATH=/usr/bin"]
        help_text = subprocess.run([relay, "health", "--help"], text=True, capture_output=True).stdout
        assert all(word in help_text for word in words[2:]), words
    assert container["livenessProbe"]["exec"]["command"] == ["relay", "health", "--alive"], "an outage would restart it"
    assert container["readinessProbe"]["exec"]["command"] == ["relay", "health"]
    port = int(server["listen"].rsplit(":", 1)[1])
    if container in pod.get("initContainers", []):
        assert container["restartPolicy"] == "Always", "the application would wait for it for ever"
        assert server["listen"] == f"127.0.0.1:{port}", "others than this pod could call it"
        (app,) = pod["containers"]
        assert any(f"http://127.0.0.1:{port}/" in variable["value"] for variable in app["env"]), app
    else:
        assert server["listen"].startswith("tls:0.0.0.0:"), "callers' tokens would be in the open"
        assert [each["containerPort"] for each in container["ports"]] == [port]


def compose(relay: str, image: dict) -> None:
    text = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = text["services"]
    written = (DEPLOY / "relay.toml").read_text()
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source, place = volume.split(":")[:2]
            assert source in text["volumes"] or (DEPLOY / source).is_file(), (name, volume)
            if service["image"] == "relay" and source in text["volumes"]:
                assert place in VOLUMES | {"/etc/relay", "/var/run/postgresql"}, "the image has no folder for it"
        for needed in service.get("depends_on", {}):
            assert needed in services, (name, needed)
    for name in ("init", "migrate", "relay"):
        service = services[name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], service
        assert service["security_opt"] == ["no-new-privileges:true"] and service["image"] == "relay"
    served = services["relay"]
    assert "./relay.toml:/etc/relay/relay.toml:ro" in served["volumes"]
    with tempfile.TemporaryDirectory(prefix="relay-compose-") as name:
        # As the service `init` writes them; relay.toml is mounted over its own.
        folder = Path(name)
        assert services["init"]["command"] == ["init", "--local-issuer", "--dir", "/etc/relay"]
        subprocess.run([relay, "init", "--local-issuer", "--dir", name], check=True, capture_output=True)
        files = [each.name for each in folder.iterdir() if each.name != "relay.toml"]
        check(relay, written, files, {variable: "0123456789abcdef" for variable in served["environment"]})
    config = tomllib.loads(written)
    assert served["healthcheck"]["test"] == ["CMD", "relay", "health"], served
    grace = int(config["server"]["grace"].removesuffix("s"))
    assert int(served["stop_grace_period"].removesuffix("s")) > grace, served
    port = config["server"]["listen"].rsplit(":", 1)[1]
    assert served["ports"] == [f"127.0.0.1:{port}:{port}"], "the whole network could call it without TLS"
    assert any(f"http://relay:{port}/" in word for word in services["app"]["command"])
    assert config["server"]["admin_listen"].startswith("127.0.0.1:"), config
    mounted = {volume.split(":")[1] for volume in served["volumes"]}
    assert str(Path(config["audit"]["path"]).parent) in mounted & VOLUMES, config
    print(f"compose.yaml: {len(services)} services")


if __name__ == "__main__":
    sys.exit(main())
