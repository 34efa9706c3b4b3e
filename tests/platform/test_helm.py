"""The Helm chart: linted and rendered by helm, checked against Kubernetes' schemas and against the code."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from services.kubernetes import SCHEMAS
from services.programs import helm
from unstale.settings.variables import variables
from unstale_worker.rules import Rules

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "unstale"
RULES = '[[watch]]\ntable = "public.items"\nkeys = ["item:{id}"]\n\n[ttl]\n"item:*" = "1h"\n'
NEEDED = ["--set", "image.repository=registry.example/unstale,existingSecret=secrets"]
EVERYTHING = [
    "--set", "podMonitor.enabled=true,podMonitor.labels.release=prometheus,imagePullSecrets[0].name=pull",
    "--set", "refresh.replicas=2,settings.UNSTALE_LOG=debug",
    "--set", "podLabels.team=a,podAnnotations.note=b,nodeSelector.disk=ssd,tolerations[0].operator=Exists",
    "--set", "extraVolumes[0].name=loaders,extraVolumes[0].emptyDir.sizeLimit=1Mi",
    "--set", "extraVolumeMounts[0].name=loaders,extraVolumeMounts[0].mountPath=/app/loaders",
    "--set", "networkPolicy.extraEgress[0].to[0].ipBlock.cidr=10.0.0.0/8",
]  # fmt: skip

pytestmark = pytest.mark.xdist_group("helm")


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = ["lint", "--strict"] if command == "lint" else [command, "trial"]
    return subprocess.run(
        [str(helm()), *words, str(CHART), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def rendered(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return the resources that a user gets who gives what is needed, and these arguments."""
    (tmp_path / "unstale.toml").write_text(RULES)
    rules = ["--set-file", f"rules={tmp_path / 'unstale.toml'}"]
    linted = run("lint", *NEEDED, *rules, *arguments)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    done = run("template", *NEEDED, *rules, *arguments)
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource is not None]


def complaints(resource: dict[str, Any]) -> list[str]:
    """Check one resource as strictly as Kubernetes 1.37 does, and unknown fields too."""
    group, _, version = resource["apiVersion"].rpartition("/")
    parts = [resource["kind"].lower(), *filter(None, [group.partition(".")[0]]), version]
    definitions = Resource.from_contents(
        json.loads((SCHEMAS / "_definitions.json").read_text()), default_specification=DRAFT7
    )
    registry: Registry[Any] = Registry().with_resource("_definitions.json", definitions)
    schema = json.loads((SCHEMAS / f"{'-'.join(parts)}.json").read_text())
    found = Draft7Validator(schema, registry=registry).iter_errors(resource)
    return [f"{error.json_path}: {error.message}" for error in found]


@pytest.mark.parametrize("arguments", [[], EVERYTHING], ids=["defaults", "everything"])
def test_kubernetes_would_accept_all_of_it(tmp_path: Path, arguments: list[str]) -> None:
    resources = rendered(tmp_path, *arguments)
    kinds = {"ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"}
    assert {resource["kind"] for resource in resources} == kinds | ({"PodMonitor"} if arguments else set())
    for resource in resources:
        if resource["kind"] != "PodMonitor":  # no package here brings the operator's schema
            assert complaints(resource) == []
    resources[0]["spec"]["nothing"] = 1
    assert len(complaints(resources[0])) == 1, "an unknown field is noticed"


def test_pods_are_what_the_image_and_the_code_expect(tmp_path: Path) -> None:
    resources = rendered(tmp_path, *EVERYTHING)
    deployments = {
        each["metadata"]["name"]: each["spec"] for each in resources if each["kind"] == "Deployment"
    }
    assert {name: each["replicas"] for name, each in deployments.items()} == {
        "trial-unstale-worker": 2,
        "trial-unstale-refresh": 2,
    }
    (user,) = re.findall(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for deployment in deployments.values():
        pod = deployment["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsUser"] == int(user)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["envFrom"] == [{"secretRef": {"name": "secrets"}}]
        assert {each["name"] for each in container["env"]} <= set(variables().values())
        assert container["image"].endswith(
            f":{yaml.safe_load((CHART / 'Chart.yaml').read_text())['version']}"
        )
        assert set(deployment["selector"]["matchLabels"].items()) <= set(
            deployment["template"]["metadata"]["labels"].items()
        )
    containers = [each["template"]["spec"]["containers"][0]["args"] for each in deployments.values()]
    assert sorted(containers) == [["worker"], ["worker", "--role", "refresh"]]
    (rules,) = (each["data"]["unstale.toml"] for each in resources if each["kind"] == "ConfigMap")
    assert Rules.parse(rules) == Rules.parse(RULES)


def test_other_rules_restart_the_pods(tmp_path: Path) -> None:
    def checksum(*arguments: str) -> str:
        (worker,) = (each for each in rendered(tmp_path, *arguments) if each["kind"] == "Deployment")
        return str(worker["spec"]["template"]["metadata"]["annotations"]["checksum/rules"])

    other = tmp_path / "other.toml"
    other.write_text(RULES.replace("1h", "2h"))
    assert checksum() != checksum("--set-file", f"rules={other}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "existingSecret"),
        (NEEDED, "Set rules"),
        ([*NEEDED, "--set", "rules=a,existingConfigMap=b"], "not both"),
        ([*NEEDED, "--set", "rules=a,worker.replica=3"], "replica"),
    ],
    ids=["nothing", "no rules", "two rules", "misspelt"],
)
def test_what_is_missing_or_misspelt_is_named(arguments: list[str], said: str) -> None:
    done = run("template", *arguments)
    assert done.returncode != 0
    assert said in done.stderr
