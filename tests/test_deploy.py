"""The deployment files: what their own tools say of them, and what would break though these say nothing."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from engine.backends.echo import EchoBackend
from engine.config import Config
from tests.conftest import Serve

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "assets" / "deploy"
MODEL = "tencent/Hy-MT2-7B"
TOOLS = {
    "compose.yaml": ["check_jsonschema", "--builtin-schema", "vendor.compose-spec"],
    "kubernetes.yaml": ["kubernetes_validate", "--strict"],
    "ray-serve.yaml": ["tests.ray_serve"],
}
MISTAKES = {  # each at another depth
    "compose.yaml": [("\nservices:", "\nservice:"), ("device_ids:", "device_id:")],
    "kubernetes.yaml": [("clusterIP:", "clusterIp:"), ("readinessProbe:", "readyProbe:"), ('cpu: "1"', "cpu: [1]")],
    "ray-serve.yaml": [("applications:", "application:"), ("engine_kwargs:", "kwargs:"), ("max_replicas:", "most:")],
}


def read(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def pods() -> Iterator[dict[str, Any]]:
    """The specs of all pods, each with its one container."""
    for document in yaml.safe_load_all(read("kubernetes.yaml")):
        if "template" in document["spec"]:
            yield document["spec"]["template"]["spec"]


def parts(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all(read("kubernetes.yaml"))
    return {each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == kind}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(read("compose.yaml"))["services"]
    return services


@pytest.fixture(scope="module")
def vllm() -> dict[str, Any]:
    return parts("StatefulSet")["hy-mt"]


@pytest.fixture(scope="module")
def yiwen() -> dict[str, Any]:
    container: dict[str, Any] = parts("Deployment")["yiwen"]["template"]["spec"]["containers"][0]
    return container


def settings(named: dict[str, str]) -> Config:
    """As Yiwen reads them; what it does not know is an error."""
    return Config.load([], {name: value for name, value in named.items() if name.startswith("YIWEN_")})


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.timeout(180)
def test_its_own_tool_takes_it_and_sees_mistakes(name: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.yaml" for number in range(len(MISTAKES[name]))]
    for file, (right, wrong) in zip(files, MISTAKES[name], strict=True):
        assert read(name).count(right) >= 1
        file.write_text(read(name).replace(right, wrong, 1), encoding="utf-8")

    def run(*asked: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *TOOLS[name], *map(str, asked)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    if name == "ray-serve.yaml":  # it takes seconds to start
        said = json.loads(run(DEPLOY / name, *files).stdout)
        assert [bool(each) for each in said.values()] == [False, *(True for _ in files)], said
        return
    assert (told := run(DEPLOY / name)).returncode == 0, told.stdout + told.stderr
    assert [run(file).returncode for file in files] == [1 for _ in files]


@pytest.mark.parametrize("name", TOOLS)
def test_the_model_is_one_that_everybody_may_use(name: str) -> None:
    named = set(re.findall(r"tencent/[\w.-]+", read(name)))
    assert named == {MODEL}
    assert re.search(rf"^\| `{MODEL}` \|.*\| Apache-2\.0 \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])
def test_images_have_versions(name: str) -> None:
    images = re.findall(r"image: (\S+)", read(name))
    assert {image for image in images if not re.search(r":(v[0-9.]+|slim)$", image)} == set()
    assert "AS slim\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_compose_asks_every_vllm_and_each_has_a_card_of_its_own(compose: dict[str, Any]) -> None:
    servers = {name: service for name, service in compose.items() if "vllm" in service["image"]}
    config = settings(compose["yiwen"]["environment"])
    assert config.remote_url == tuple(f"http://{name}:8000" for name in servers)
    assert all(":8000/health" in str(server["healthcheck"]["test"]) for server in servers.values())
    assert {server["command"][0] for server in servers.values()} == {config.model}
    cards = [server["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for server in servers.values()]
    assert cards == [[str(number)] for number in range(len(servers))]


def test_compose_shows_nothing_but_yiwen_and_that_to_this_machine_alone(compose: dict[str, Any]) -> None:
    ports = [port for service in compose.values() for port in service.get("ports", [])]
    assert ports == [f"127.0.0.1:{Config().port}:{Config().port}"]


def test_kubernetes_asks_every_pod_of_vllm(vllm: dict[str, Any], yiwen: dict[str, Any]) -> None:
    service = parts("Service")[vllm["serviceName"]]
    container = vllm["template"]["spec"]["containers"][0]
    port = container["ports"][0]["containerPort"]
    config = settings({each["name"]: each.get("value", "a key") for each in yiwen["env"]})
    assert config.remote_url == tuple(f"http://hy-mt-{number}.hy-mt:{port}" for number in range(vllm["replicas"]))
    assert (service["clusterIP"], service["ports"][0]["port"]) == ("None", port)
    assert service["selector"] == vllm["selector"]["matchLabels"] == vllm["template"]["metadata"]["labels"]
    assert container["args"][0] == config.model


def test_kubernetes_finds_yiwen_where_it_listens(yiwen: dict[str, Any]) -> None:
    service, deployment = parts("Service")["yiwen"], parts("Deployment")["yiwen"]
    assert service["ports"][0]["port"] == yiwen["ports"][0]["containerPort"] == Config().port
    assert service["selector"] == deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    assert f"YIWEN_PORT={Config().port}" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_keys_are_secrets_and_the_same_at_both_ends(vllm: dict[str, Any], yiwen: dict[str, Any]) -> None:
    env = {each["name"]: each for each in (*vllm["template"]["spec"]["containers"][0]["env"], *yiwen["env"])}
    assert env["VLLM_API_KEY"]["valueFrom"] == env["YIWEN_REMOTE_KEY"]["valueFrom"]
    mounted = {each["name"]: each["mountPath"] for each in yiwen["volumeMounts"]}
    assert env["YIWEN_API_KEYS"]["value"] == f"{mounted['keys']}/keys.txt"
    assert "stringData" not in read("kubernetes.yaml")


def test_no_pod_is_told_of_services_as_settings() -> None:
    """Kubernetes would set YIWEN_PORT to tcp://…, since there is a service of that name."""
    assert [pod["enableServiceLinks"] for pod in pods()] == [False, False]


def test_no_pod_is_root_or_may_become_it() -> None:
    assert [pod["securityContext"]["runAsNonRoot"] for pod in pods()] == [True, True]
    containers = [pod["containers"][0]["securityContext"] for pod in pods()]
    assert {container["allowPrivilegeEscalation"] for container in containers} == {False}


def test_yiwen_writes_where_it_may(compose: dict[str, Any], yiwen: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    folders = re.findall(r"(?:YIWEN_DATA_DIR|XDG_CACHE_HOME|HF_HOME)=(\S+)", dockerfile)
    assert {folder.split("/")[1] for folder in folders} == {"data"}
    assert yiwen["securityContext"]["readOnlyRootFilesystem"] is compose["yiwen"]["read_only"] is True
    assert {"/data", "/tmp"} <= {each["mountPath"] for each in yiwen["volumeMounts"]}
    assert compose["yiwen"]["volumes"] == ["yiwen:/data"]
    user = parts("Deployment")["yiwen"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert set(re.findall(r"^USER (\S+)$", dockerfile, re.M)) == {f"{user}:{user}"}


def test_probes_ask_what_yiwen_answers(serve: Serve, yiwen: dict[str, Any]) -> None:
    url = serve(EchoBackend())
    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    paths = [yiwen[probe]["httpGet"]["path"] for probe in probes]
    assert paths == ["/healthz", "/readyz", "/healthz"]
    assert [httpx.get(f"{url}{path}").status_code for path in paths] == [200, 200, 200]


def test_who_is_stopped_has_the_time_to_end(compose: dict[str, Any], yiwen: dict[str, Any]) -> None:
    grace = settings(compose["yiwen"]["environment"]).grace_seconds
    assert int(compose["yiwen"]["stop_grace_period"].removesuffix("s")) > grace
    env = {each["name"]: each.get("value", "a key") for each in yiwen["env"]}
    pod = parts("Deployment")["yiwen"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > settings(env).grace_seconds


def test_ray_serves_on_the_port_that_its_comment_tells_yiwen() -> None:
    text = read("ray-serve.yaml")
    config = yaml.safe_load(text)
    told = re.search(r"YIWEN_REMOTE_URL=http://FIRST:([0-9]+) YIWEN_MAX_CONCURRENT=([0-9]+)", text)
    assert told
    assert int(told[1]) == config["http_options"]["port"]
    model = config["applications"][0]["args"]["llm_configs"][0]
    assert int(told[2]) >= model["deployment_config"]["autoscaling_config"]["target_ongoing_requests"]
