"""Every overlay renders, is what Kubernetes accepts, keeps the rules of safety, and has every folder of services/."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from parfocal.runtime.access.transport import UNPROTECTED

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
SCHEMAS = json.loads((Path(__file__).parent / "schemas/custom.json").read_text())
VALIDATE = ROOT / ".venvs/tools/bin/kubernetes-validate"
VERSION = "1.32"
Object = dict[str, Any]
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml") if path.parent.name != "runtime")
# The catalogue offers no methods.
FAMILIES = [service for service in SERVICES if service != "catalog"]
# It has no port, and ends by itself when it cannot work.
WITHOUT_PROBES = {"runner"}


@cache
def rendered(overlay: str) -> str:
    if shutil.which("kubectl") is None:
        message = "kubectl is missing: the manifests of Kubernetes were NOT tested"
        if os.environ.get("PARFOCAL_NEEDS_KUBECTL"):
            pytest.fail(message)
        pytest.skip(message)
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def objects(overlay: str) -> tuple[Object, ...]:
    return tuple(yaml.load_all(rendered(overlay), yaml.CSafeLoader))


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [content for content in objects(overlay) if content["kind"] in kinds]


def name(content: Object) -> str:
    return str(content["metadata"]["name"])


def pods(overlay: str) -> Iterator[tuple[str, Object]]:
    """Yield kind/name and the specification of all pods that objects describe."""
    for content in objects(overlay):
        spec = content.get("spec", {})
        template = (
            content.get("template")
            or spec.get("template")
            or spec.get("jobTemplate", {}).get("spec", {}).get("template")
        )
        if template and content["kind"] in {"CronJob", "Deployment", "StatefulSet", "Job", "PodTemplate"}:
            yield f"{content['kind']}/{name(content)}", template["spec"]


def containers(overlay: str) -> Iterator[tuple[str, Object, Object]]:
    for where, pod in pods(overlay):
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            yield f"{where}/{container['name']}", pod, container


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_object(overlay: str, tmp_path: Path) -> None:
    known, custom = [], []
    for content in objects(overlay):
        (custom if f"{content['apiVersion']}/{content['kind']}" in SCHEMAS["kinds"] else known).append(content)
    path = tmp_path / "known.yaml"
    path.write_text(yaml.safe_dump_all(known))
    command = [str(VALIDATE), "--strict", "-k", VERSION, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for content in custom:
        schema = SCHEMAS["kinds"][f"{content['apiVersion']}/{content['kind']}"]
        # A few kinds have their fields where others have a spec.
        own = {key: value for key, value in content.items() if key not in {"apiVersion", "kind", "metadata"}}
        spec = own["spec"] if set(own) == {"spec"} else own
        for part, rules in ((content["metadata"], {"$ref": "#/$defs/metadata"}), (spec, schema)):
            jsonschema.validate(part, {**rules, "$defs": SCHEMAS["$defs"]})


def test_the_validation_refuses_a_wrong_field(tmp_path: Path) -> None:
    content = of_kind("cpu", "Deployment")[0]
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**content, "spec": {**content["spec"], "replica": 1}}))
    command = [str(VALIDATE), "--strict", "-k", VERSION, str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    ("kind", "field"), [("HTTPRoute", "parentRef"), ("ClusterQueue", "cohorts"), ("PrometheusRule", "interval")]
)
def test_the_schemas_written_here_refuse_a_wrong_field(kind: str, field: str) -> None:
    content = of_kind("production", kind)[0]
    schema = SCHEMAS["kinds"][f"{content['apiVersion']}/{kind}"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content["spec"], field: []}, {**schema, "$defs": SCHEMAS["$defs"]})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_folder_of_services_is_installed(overlay: str) -> None:
    templates = {name(content) for content in of_kind(overlay, "PodTemplate")}
    deployments = {name(content) for content in of_kind(overlay, "Deployment")}
    budgets = {name(content) for content in of_kind(overlay, "PodDisruptionBudget")}
    assert templates == {f"parfocal-{service}-worker" for service in FAMILIES}
    wanted = {f"parfocal-{service}" for service in SERVICES}
    assert wanted <= deployments
    assert wanted <= budgets
    extra = deployments - wanted - {f"parfocal-{service}-images" for service in SERVICES}
    assert extra == {"parfocal-portal", "parfocal-prefect", "parfocal-runner"}
    (settings,) = [content for content in of_kind(overlay, "ConfigMap") if name(content) == "parfocal-services"]
    addresses = settings["data"]["PARFOCAL_SERVICES"].split(",")
    assert addresses == [f"parfocal-{service}:50051" for service in FAMILIES]
    assert settings["data"]["PARFOCAL_CATALOG"] == "parfocal-catalog:50051"


def test_the_public_address_knows_every_service() -> None:
    (route,) = of_kind("production", "GRPCRoute")
    rules = {
        header["value"]: rule["backendRefs"][0]["name"]
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
        for header in match["headers"]
        if header["name"] == "parfocal-service"
    }
    assert rules == {service: f"parfocal-{service}" for service in SERVICES}


def test_each_page_has_a_name_of_its_own_in_front() -> None:
    """For one name a listener of a gateway takes either calls of gRPC or pages: the other route would be refused."""
    (gateway,) = of_kind("production", "Gateway")
    hosts = {listener["name"]: listener["hostname"] for listener in gateway["spec"]["listeners"]}
    routes = {name(route): route["spec"] for route in of_kind("production", "GRPCRoute", "HTTPRoute")}
    fronts = {route: hosts[spec["parentRefs"][0]["sectionName"]] for route, spec in routes.items()}
    assert len(set(fronts.values())) == len(fronts) == len(hosts)
    services = {name(content): content["spec"]["ports"][0]["port"] for content in of_kind("production", "Service")}
    for spec in routes.values():
        for backend in (each for rule in spec["rules"] for each in rule["backendRefs"]):
            assert services[backend["name"]] == backend["port"]
    (certificate,) = [content for content in of_kind("production", "Certificate") if name(content) == "parfocal-tls"]
    assert set(certificate["spec"]["dnsNames"]) == set(hosts.values())
    (settings,) = [content["data"] for content in of_kind("production", "ConfigMap") if name(content) == "parfocal"]
    assert settings["PARFOCAL_PORTAL_URL"] == f"https://{fronts['parfocal-portal']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_portal_starts_with_the_settings_of_its_pod(overlay: str, tmp_path: Path) -> None:
    """As its own program reads them, so that it neither refuses to listen nor its address."""
    (portal,) = [content for content in of_kind(overlay, "Deployment") if name(content) == "parfocal-portal"]
    (container,) = portal["spec"]["template"]["spec"]["containers"]
    listen = container["command"][container["command"].index("--listen") + 1]
    assert listen.endswith(f":{container['ports'][0]['containerPort']}")
    data = {name(content): content["data"] for content in of_kind(overlay, "ConfigMap")}
    names = [source["configMapRef"]["name"] for source in container["envFrom"]]
    values = {key: value for each in names for key, value in data[each].items()}
    access = tmp_path / "access.toml"
    if values.get("PARFOCAL_ACCESS_FILE"):
        values["PARFOCAL_ACCESS_FILE"] = str(access)
    program = (
        "from parfocal.portal.__main__ import allowed_hosts, require_protection\n"
        "from parfocal.portal.settings import PortalSettings\n"
        "from parfocal.runtime.settings import Settings\n"
        f"require_protection({listen!r}, Settings(), PortalSettings())\n"
        f"print(*allowed_hosts(*{listen!r}.split(':'), PortalSettings()))\n"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PARFOCAL_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept | values, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [values["PARFOCAL_PORTAL_URL"].partition("://")[2]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_lets_the_portal_do_its_work(overlay: str) -> None:
    """Both ends of each call must be open: from the portal, and to whom it calls."""
    components = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for content in of_kind(overlay, "Deployment", "StatefulSet")
        for pod in [content["spec"]["template"]]
    }
    ends = {"catalog": 50051, "controller": 50051, "prefect": 4200, "store": 8333}
    for callee, port in ends.items():
        if callee in components:
            assert opens(overlay, "egress", "portal", callee, port), callee
            assert opens(overlay, "ingress", callee, "portal", port), callee
    if overlay == "production":
        for caller in ("catalog", "controller", "portal"):
            assert opens(overlay, "egress", caller, "", 443), f"{caller} cannot ask for the keys of an issuer"


def opens(overlay: str, way: str, part: str, other: str, port: int) -> bool:
    """Return whether a policy lets the pods of a component call, or be called by, those of another; "": anybody."""
    for policy in (content["spec"] for content in of_kind(overlay, "NetworkPolicy")):
        if not selects(policy["podSelector"], part):
            continue
        for rule in policy.get(way, ()):
            peers = rule.get("to" if way == "egress" else "from")
            known = peers is None if not other else any(selects(peer.get("podSelector"), other) for peer in peers or ())
            if known and port in {each["port"] for each in rule["ports"]}:
                return True
    return False


def selects(selector: Object | None, component: str) -> bool:
    """Return whether a selector names the pods of a component."""
    if not selector:
        return False
    chosen = {selector.get("matchLabels", {}).get("app.kubernetes.io/component")}
    for rule in selector.get("matchExpressions", ()):
        if rule["key"] == "app.kubernetes.io/component":
            chosen |= set(rule["values"])
    return component in chosen


def test_what_follows_from_the_folders_is_current() -> None:
    command = [sys.executable, str(ROOT / "deploy/tools/manifests"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted(overlay: str) -> None:
    """The rules of Pod Security's level "restricted", and a root that cannot be written."""
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for where, pod in pods(overlay):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, where
        assert security["runAsUser"] > 0, where
        assert security["seccompProfile"]["type"] == "RuntimeDefault", where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), where
        kinds = {"emptyDir", "persistentVolumeClaim", "configMap", "secret"}
        assert all(kinds & set(volume) for volume in pod.get("volumes", ())), where
    for where, _, container in containers(overlay):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, where
        assert security["readOnlyRootFilesystem"] is True, where
        assert security["capabilities"] == {"drop": ["ALL"]}, where
        assert all("hostPort" not in port for port in container.get("ports", ())), where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_have_probes_and_limits(overlay: str) -> None:
    for where, pod, container in containers(overlay):
        resources = container["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"]), where
        assert {"memory", "ephemeral-storage"} <= set(resources["limits"]), where
        for volume in pod.get("volumes", ()):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), where
        if where.startswith(("Deployment", "StatefulSet")) and container["name"] not in WITHOUT_PROBES:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_image_has_a_version_that_is_named_in_one_place(overlay: str) -> None:
    listed = {}
    for path in (KUBERNETES / "images/kustomization.yaml", KUBERNETES / "images/gpu/kustomization.yaml"):
        for entry in yaml.safe_load(path.read_text())["images"]:
            listed.setdefault(f"{entry.get('newName', entry['name'])}:{entry['newTag']}", path)
    for where, _, container in containers(overlay):
        assert container["image"] in listed, where
        assert re.search(r":(?!latest)[^:/]+$", container["image"]), where
    places = {
        path.relative_to(KUBERNETES).parts[0] for path in KUBERNETES.rglob("*.yaml") if "newTag" in path.read_text()
    }
    assert places == {"images", "template"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_only_referred_to(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    for where, _, container in containers(overlay):
        for entry in container.get("env", ()):
            secret = re.search(r"KEY|PASSWORD|TOKEN|CONNECTION_URL|AUTH", entry["name"])
            # The path of a mounted secret is none itself.
            is_path = entry.get("value", "").startswith("/etc/parfocal/")
            assert not secret or is_path or "secretKeyRef" in entry["valueFrom"], f"{where}: {entry['name']}"
    for content in of_kind(overlay, "ConfigMap"):
        named = {key: value for key, value in content["data"].items() if re.search(r"_KEY|PASSWORD|TOKEN", key)}
        assert not [key for key, value in named.items() if not value.startswith("/etc/parfocal/")], name(content)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_service_has_a_key_of_the_store_of_its_own(overlay: str) -> None:
    used: dict[str, set[str]] = {}
    for where, _, container in containers(overlay):
        for entry in container.get("env", ()):
            if "S3_ACCESS_KEY" in entry["name"] or "S3_SECRET_KEY" in entry["name"]:
                used.setdefault(where.split("/")[1], set()).add(entry["valueFrom"]["secretKeyRef"]["name"])
    for service in SERVICES:
        for part in ("", "-worker", "-images"):
            assert used.get(f"parfocal-{service}{part}", {f"parfocal-store-{service}"}) == {f"parfocal-store-{service}"}
        assert f"parfocal-{service}" in used


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_controllers_may_ask_the_cluster_and_only_for_what_they_do(overlay: str) -> None:
    allowed = {
        ("batch", "jobs"): {"create", "delete", "get", "list", "watch"},
        ("", "pods"): {"list", "watch"},
        ("", "podtemplates"): {"get"},
        ("visibility.kueue.x-k8s.io", "localqueues/pendingworkloads"): {"get"},
    }
    assert of_kind(overlay, "ClusterRole", "ClusterRoleBinding") == []
    for role in of_kind(overlay, "Role"):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    assert set(rule["verbs"]) <= allowed[group, resource], name(role)
    for binding in of_kind(overlay, "RoleBinding"):
        assert [subject["name"] for subject in binding["subjects"]] == ["parfocal-controller"]
    for where, pod in pods(overlay):
        if pod["serviceAccountName"] != "parfocal-controller":
            assert pod["automountServiceAccountToken"] is False, where


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_denies_by_default(overlay: str) -> None:
    policies = {name(content): content["spec"] for content in of_kind(overlay, "NetworkPolicy")}
    assert policies["parfocal-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for where, policy in policies.items():
        for rule in [*policy.get("ingress", ()), *policy.get("egress", ())]:
            assert rule.get("ports"), f"{where} opens all ports"
        assert all("from" in rule for rule in policy.get("ingress", ())), f"{where} lets anybody in"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_says_that_it_must_not_be_exposed(overlay: str) -> None:
    (namespace,) = of_kind(overlay, "Namespace")
    assert "must not be exposed" in " ".join(namespace["metadata"]["annotations"]["parfocal/exposure"].split())
    text = (KUBERNETES / "overlays" / overlay / "kustomization.yaml").read_text().replace("\n#", "")
    assert "MUST NOT BE EXPOSED" in text
    assert {content["spec"].get("type", "ClusterIP") for content in of_kind(overlay, "Service")} == {"ClusterIP"}
    assert of_kind(overlay, "Ingress") == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_listen_with_tls_and_identities_or_say_that_they_do_not(overlay: str) -> None:
    (settings,) = [content["data"] for content in of_kind(overlay, "ConfigMap") if name(content) == "parfocal"]
    if overlay != "production":
        assert settings["PARFOCAL_UNPROTECTED"] == UNPROTECTED
        return
    assert not settings["PARFOCAL_UNPROTECTED"]
    files = [settings[key] for key in ("PARFOCAL_ACCESS_FILE", "PARFOCAL_TOKENS_FILE", "PARFOCAL_TLS_CERT")]
    asking = [content for content in of_kind(overlay, "Deployment") if name(content) != "parfocal-prefect"]
    for content in asking:
        mounts = content["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        folders = {mount["mountPath"] for mount in mounts}
        needed = files[2:] if name(content) == "parfocal-runner" else files
        assert {str(Path(file).parent) for file in needed} <= folders, name(content)
    (certificate,) = [content for content in of_kind(overlay, "Certificate") if "services" in name(content)]
    (policy,) = of_kind(overlay, "BackendTLSPolicy")
    guarded = {target["name"] for target in policy["spec"]["targetRefs"]}
    assert guarded == {f"parfocal-{service}" for service in SERVICES} <= set(certificate["spec"]["dnsNames"])
    assert policy["spec"]["validation"]["hostname"] in certificate["spec"]["dnsNames"]


def test_flow_runner_and_portal_have_no_key_of_the_store_and_the_runner_does_not_reach_it() -> None:
    for overlay in OVERLAYS:
        for where, _, container in containers(overlay):
            keys = [each for each in container.get("env", ()) if "_S3_" in each["name"] and "KEY" in each["name"]]
            if container["name"] in {"catalog", "portal", "worker", "runner"}:
                assert bool(keys) == (container["name"] in {"catalog", "worker"}), f"{overlay}: {where}"
        for policy in of_kind(overlay, "NetworkPolicy"):
            if name(policy) == "parfocal-to-store":
                assert "runner" not in str(policy["spec"]["podSelector"])


def test_gpus_are_asked_for_by_workers_alone() -> None:
    for overlay in OVERLAYS:
        for where, _, container in containers(overlay):
            gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            network = container["name"] == "worker" and "parfocal-qc" not in where
            assert gpu == (network and overlay != "cpu"), f"{overlay}: {where}"
            assert container["image"].endswith("-gpu") or not gpu, where


def test_single_images_have_no_device_by_default_and_the_runner_is_alone() -> None:
    deployments = {name(content): content["spec"] for content in of_kind("gpu", "Deployment")}
    replicas = {key: spec["replicas"] for key, spec in deployments.items()}
    idle = {key for key, count in replicas.items() if count == 0}
    assert idle == {key for key in replicas if key.endswith("-images")}
    assert (replicas["parfocal-runner"], deployments["parfocal-runner"]["strategy"]["type"]) == (1, "Recreate")


def test_with_kueue_the_jobs_of_workers_wait_in_its_queue() -> None:
    (queue,) = of_kind("production", "LocalQueue")
    for template in of_kind("production", "PodTemplate"):
        assert template["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == name(queue)


@pytest.mark.parametrize("overlay", ["gpu", "production"])
def test_short_predictions_have_a_class_that_goes_first(overlay: str) -> None:
    (settings,) = [content["data"] for content in of_kind(overlay, "ConfigMap") if name(content) == "parfocal"]
    (known,) = of_kind(overlay, "PriorityClass")
    assert settings["PARFOCAL_KUBERNETES_SHORT_PRIORITY"] == name(known)
    assert known["value"] > 0
    if overlay == "production":
        (ours,) = of_kind(overlay, "WorkloadPriorityClass")
        (queue,) = of_kind(overlay, "ClusterQueue")
        assert (name(ours), ours["value"]) == (name(known), known["value"])
        assert queue["spec"]["preemption"] == {"withinClusterQueue": "LowerPriority"}


def with_components(tmp_path: Path, *components: str) -> dict[tuple[str, str], Object]:
    """Return the objects of an overlay of the base and components, by kind and name."""
    rendered("cpu")
    folder = tmp_path / "deploy" / "overlay"
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
    folder.mkdir()
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../kubernetes/base"],
        "components": [*(f"../kubernetes/components/{each}" for each in components), "../kubernetes/images"],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {(each["kind"], name(each)): each for each in yaml.load_all(done.stdout, yaml.CSafeLoader)}


def test_measured_memory_reaches_the_controllers(tmp_path: Path) -> None:
    contents = with_components(tmp_path, "seaweedfs", "capacity")
    folder = contents["ConfigMap", "parfocal"]["data"]["PARFOCAL_CAPACITY_DIR"]
    for family in FAMILIES:
        pod = contents["Deployment", f"parfocal-{family}"]["spec"]["template"]["spec"]
        (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == folder]
        (volume,) = [each for each in pod["volumes"] if each["name"] == mount["name"]]
        # What nobody has measured yet is no reason not to start.
        assert volume["configMap"] == {"name": "parfocal-capacity", "optional": True}


@pytest.mark.parametrize("component", ["minio", "seaweedfs"])
def test_either_store_can_be_taken(component: str, tmp_path: Path) -> None:
    contents = with_components(tmp_path, component)
    port = contents["Service", "parfocal-store"]["spec"]["ports"][0]["port"]
    assert contents["ConfigMap", "parfocal"]["data"]["PARFOCAL_S3_ENDPOINT"] == f"http://parfocal-store:{port}"
    (container,) = contents["StatefulSet", "parfocal-store"]["spec"]["template"]["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == port
