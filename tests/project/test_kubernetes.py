"""The Kubernetes base, held to the schemas of its kinds; not applied: there is no cluster here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from penstock.settings.reading import load
from support.require import require

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy/kubernetes"
UV = ROOT / ".cache/uv/bin/uv"
VALIDATE = (UV, "tool", "run", "--quiet", "--from", "kubernetes-validate==1.37.0")


@pytest.mark.parametrize("settings", ["spool.toml", "loader.toml"])
def test_its_settings_are_accepted(settings: str) -> None:
    """And what they name is mounted: the files of tokens, the volume, the services' names."""
    loaded = load(BASE / settings)
    text = "".join(path.read_text() for path in BASE.glob("*.yaml"))
    services = re.findall(r"kind: Service\nmetadata: {name: (\w+)}", text)
    hosts = re.findall(r"//(\w+):\d+", f"{loaded.source.url} {loaded.ledger.url}")
    assert set(hosts) <= set(services)
    tokens = [loaded.source.token_file, loaded.serve.token_file, loaded.serve.read_token_file]
    assert all(path.startswith("/etc/penstock/tokens/") for path in tokens if path)
    assert "mountPath: /etc/penstock/tokens" in text


def test_its_probes_name_a_host_that_is_served() -> None:
    """By default the host of a probe is the pod's address, which serve refuses."""
    text = (BASE / "spool.yaml").read_text()
    probes = re.findall(r"httpGet: (?:\*(\w+)|&(\w+) {.*?name: Host, value: (\w+)}])", text)
    assert len(probes) == text.count("httpGet:")
    assert {again or name for again, name, _ in probes} == {"healthz"}
    assert {host for *_, host in probes if host} <= set(load(BASE / "spool.toml").serve.hosts)


def test_the_kustomization_names_every_file() -> None:
    """No manifest is left out, and none is named that is not there."""
    text = (BASE / "kustomization.yaml").read_text()
    named = re.findall(r"[\w-]+\.(?:yaml|toml)", text.partition("kind: Kustomization")[2])
    assert sorted(named) == sorted(
        path.name for path in BASE.iterdir() if path.name != "kustomization.yaml"
    )


@pytest.mark.campaign  # it fetches the schemas
def test_each_manifest_is_valid(tmp_path: Path) -> None:
    """By the schemas of Kubernetes 1.37, strictly, as kustomize joins them; a wrong one is not."""
    require(
        present=bool(shutil.which("kubectl")) and UV.exists(), what="kubectl, and uv from `make`"
    )
    built = subprocess.run(
        ["kubectl", "kustomize", BASE], capture_output=True, text=True, check=True
    ).stdout
    assert len(re.findall("^kind: ", built, re.MULTILINE)) == 7
    for replicas, expected in (("2", 0), ("two", 1)):
        path = tmp_path / f"{replicas}.yaml"
        path.write_text(built.replace("replicas: 2", f"replicas: {replicas}"))
        command = [*VALIDATE, "kubernetes-validate", "--strict", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert bool(done.returncode) == bool(expected), done.stdout + done.stderr
