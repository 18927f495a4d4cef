"""configs/cluster/: the files that clusters are made of, read by what reads them."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import forks
import jsonschema
import pytest
import yaml
from places import ROOT

FOLDER = ROOT / "configs" / "cluster"
KUBERAY_FILES = ["rayjob.yaml", "raycluster.yaml"]
TRAINING_FILE = "rayjob-train.yaml"

# Fields of ray.io/v1, as of KubeRay 1.6: the API server refuses others.
RAY_JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus",
    "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip
RAY_CLUSTER = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs",
}  # fmt: skip
HEAD_GROUP = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
WORKER_GROUP = {
    "groupName", "idleTimeoutSeconds", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas",
    "scaleStrategy", "suspend", "template",
}  # fmt: skip
AUTOSCALER = {
    "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "securityContext",
    "upscalingMode", "version", "volumeMounts",
}  # fmt: skip


def documents(name: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all((FOLDER / name).read_text())}


def cluster_of(name: str) -> dict[str, Any]:
    found = documents(name)
    return found["RayJob"]["spec"]["rayClusterSpec"] if "RayJob" in found else found["RayCluster"]["spec"]


def pods_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


@pytest.mark.parametrize("name", [*KUBERAY_FILES, TRAINING_FILE])
def test_kuberay_knows_every_field(name: str) -> None:
    for kind, document in documents(name).items():
        assert document["apiVersion"] == ("v1" if kind == "ConfigMap" else "ray.io/v1")
    assert documents(name).get("RayJob", {"spec": {}})["spec"].keys() <= RAY_JOB
    cluster = cluster_of(name)
    assert cluster.keys() <= RAY_CLUSTER
    assert cluster["headGroupSpec"].keys() <= HEAD_GROUP
    assert cluster["autoscalerOptions"].keys() <= AUTOSCALER
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= WORKER_GROUP
        assert {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= group.keys()
    for params in [group["rayStartParams"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]:
        assert all(isinstance(value, str) for value in params.values())


@pytest.mark.parametrize("name", KUBERAY_FILES)
def test_autoscaler_sees_a_head_without_work_and_gpu_and_cpu_nodes(name: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    resource = {"metadata": {"name": "sdhubert", "namespace": "default"}, "spec": cluster_of(name)}
    types = _derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    assert {key: types["headgroup"]["resources"][key] for key in ("CPU", "GPU")} == {"CPU": 0, "GPU": 0}
    assert types["headgroup"]["max_workers"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert "GPU" not in types["cpu"]["resources"]
    for group in (types["gpu"], types["cpu"]):
        assert 0 <= group["min_workers"] < group["max_workers"]
        # 3 GiB for an encoder on each GPU, 1 GiB per CPU, and 30 % for objects.
        has = group["resources"]
        assert has["memory"] * 0.7 >= (3 * has.get("GPU", 0) + has["CPU"]) * (1 << 30)
        assert has["CPU"] >= 8


@pytest.mark.parametrize("name", [*KUBERAY_FILES, TRAINING_FILE])
def test_pods_are_alike_and_safe(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    pods = pods_of(cluster)
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1  # driver and workers have to have the same Python
    for pod in pods:
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["envFrom"][0]["secretRef"]["name"] == "sdhubert-credentials"
        assert "env" not in container  # no credential stands in the file
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert (requests["cpu"], requests["memory"]) == (limits["cpu"], limits["memory"])
        assert "ephemeral-storage" in requests


def test_versions_are_those_that_are_tested() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    for name in [*KUBERAY_FILES, TRAINING_FILE]:
        assert cluster_of(name)["rayVersion"] == pins["ray"]


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (1, 1), (2, 0), (3, 0), (137, 137)])
def test_rayjob_tries_again_only_what_is_worth_it(code: int, seen: int, tmp_path: Path) -> None:
    found = documents("rayjob.yaml")
    done, arguments = run_script(found, code, tmp_path)
    assert done.returncode == seen
    assert bool(done.stderr) == (code in (2, 3))
    assert found["RayJob"]["spec"]["backoffLimit"] > 0
    # The command's own words are options that there are.
    from typer.main import get_command

    from sdhubert_ray.cli import app
    from sdhubert_ray.runs.config import load_config

    context = get_command(app).commands[arguments[0]].make_context(arguments[0], arguments[1:])
    assert context.params["source"].startswith("s3://")
    load_config(None, context.params["overrides"], {}, {})


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (1, 1), (2, 0), (137, 137)])
def test_training_tries_again_what_is_worth_it_and_fits_its_nodes(code: int, seen: int, tmp_path: Path) -> None:
    found = documents(TRAINING_FILE)
    done, arguments = run_script(found, code, tmp_path)
    assert done.returncode == seen
    assert bool(done.stderr) == (code == 2)
    assert found["RayJob"]["spec"]["backoffLimit"] > 0
    from typer.main import get_command

    from sdhubert_ray.cli import app
    from sdhubert_ray.training.options import load_train_config

    context = get_command(app).commands[arguments[0]].make_context(arguments[0], arguments[1:])
    config = load_train_config(context.params["config_name"], context.params["overrides"], {})
    (group,) = cluster_of(TRAINING_FILE)["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert config.scaling.num_workers == group["minReplicas"] * int(limits["nvidia.com/gpu"])
    assert (config.scaling.cpus_per_worker or 0) * int(limits["nvidia.com/gpu"]) <= int(limits["cpu"])


def run_script(
    found: dict[str, Any], code: int, tmp_path: Path
) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    """Run the script of a RayJob with a stand-in that ends with `code`; tells the words that it was given."""
    script = tmp_path / "run.sh"
    script.write_text(found["ConfigMap"]["data"]["run.sh"])
    stand_in = tmp_path / "sdhubert"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\nexit {code}\n')
    stand_in.chmod(0o755)
    entrypoint = found["RayJob"]["spec"]["entrypoint"].replace("/etc/sdhubert", str(tmp_path))
    done = subprocess.run(
        entrypoint, shell=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    return done, (tmp_path / "arguments").read_text().splitlines()


def test_rayjob_mounts_its_script_where_the_driver_runs() -> None:
    found = documents("rayjob.yaml")
    pod = found["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "job", "configMap": {"name": found["ConfigMap"]["metadata"]["name"]}}]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert mount["name"] == "job"
    assert found["RayJob"]["spec"]["entrypoint"] == f"bash {mount['mountPath']}/run.sh"


def test_ray_up_reads_the_aws_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FOLDER / "ray-up-aws.yaml").read_text())
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all(types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for name in ("gpu", "cpu"))
    assert "~/.ray/auth_token" in config["file_mounts"]
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config[key]:  # one that YAML cut at a # is no whole command
            assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0, command


def dashboard_metrics() -> set[str]:
    return set(re.findall(r"ray_sdhubert_\w+", (FOLDER / "grafana.json").read_text()))


def test_the_dashboard_shows_what_a_run_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdhubert_ray.output.tables import FAILED_STATUSES
    from sdhubert_ray.runs import watch

    tags: dict[str, tuple[str, ...]] = {}
    monkeypatch.setattr(watch, "Counter", lambda name, _, of: tags.setdefault(f"ray_{name}_total", of))
    watch.RunMetrics("run")
    assert dashboard_metrics() == tags.keys()
    dashboard = json.loads((FOLDER / "grafana.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    failed: set[str] = set()
    for target in (target for panel in panels for target in panel["targets"]):
        (metric,) = re.findall(r"ray_sdhubert_\w+", target["expr"])
        used = re.findall(r"(\w+)=~", target["expr"]) + re.findall(r"by \((\w+)\)", target["expr"])
        assert {*used, *re.findall(r"{{(\w+)}}", target["legendFormat"])} <= {*tags[metric]}
        failed |= {*re.findall(r'status=~"(.*?)"', target["expr"])}
    (named,) = failed
    assert {*named.split("|")} == FAILED_STATUSES


def dockerfile_steps() -> list[list[str]]:
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def test_image_is_pinned_and_runs_without_root() -> None:
    steps = dockerfile_steps()
    assert ["USER", "1000"] in steps
    assert steps.index(["USER", "1000"]) > max(number for number, step in enumerate(steps) if step[0] == "RUN")
    assert not any("pip" in step for step in steps)  # all that is installed is by the script that the test below runs
    (packages,) = (step for step in steps if "packages" in step)
    assert packages[packages.index("packages") + 2] == "/tmp/constraints.txt"
    installs = [line for line in (FOLDER / "install.sh").read_text().splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert all('--constraint "$3"' in line for line in installs)


INSTALLED = """
import os, sys
assert not {"mincut", "sdhubert_ray"} & set(sys.modules)
os.chdir("/")
site = sys.argv.pop(1)
sys.path.insert(0, site)
from sdhubert_ray import cli
import mincut
assert cli.__file__.startswith(site) and mincut.__file__.startswith(site)
cli.main()
"""
"""A command of the package that is installed in a folder."""


@forks.FORKS
def test_wheel_of_the_image_is_complete(tmp_path: Path) -> None:
    """Built from what the Dockerfile copies and by the steps that it runs, but for the extra gcs, and on this system.

    The installed package does a job and brings the files of this folder.
    """
    source, environment = tmp_path / "source", tmp_path / "env"
    source.mkdir()
    build = dockerfile_steps()
    for step in build[: next(number for number, step in enumerate(build) if "wheel" in step)]:
        for name in step[1:-1] if step[0] == "COPY" else ():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    script = ["sh", str(source / "configs" / "cluster" / "install.sh")]
    told = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1"}  # what is needed is here already
    here = {**told, "PYTHON": sys.executable, "PIP_NO_BUILD_ISOLATION": "0"}  # 0 is pip's way to say: none
    subprocess.run([*script, "wheel", source, tmp_path / "wheels"], env=here, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # The dependencies are those of this environment, without what it has of this package.
    others = tmp_path / "others"
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "sdhubert_ray" not in path.name:
            (others / path.name).symlink_to(path)
    (site / "dependencies.pth").write_text(str(others))
    there = {**told, "PYTHON": str(environment / "bin" / "python")}
    packages = [*script, "packages", tmp_path / "wheels", ROOT / "constraints.txt", "s3,train"]
    subprocess.run(packages, env=there, check=True, capture_output=True)
    assert {path.name for path in (site / "sdhubert_ray" / "configs" / "cluster").iterdir()} == {
        *KUBERAY_FILES,
        TRAINING_FILE,
        "ray-up-aws.yaml",
        "grafana.json",
    }
    assets = Path("sdhubert_ray/reporting/assets")
    assert {path.name for path in (site / assets).iterdir()} == {path.name for path in (ROOT / assets).iterdir()}
    # The command starts with what is installed alone; the job is done by a process that has torch already.
    command = [str(environment / "bin" / "sdhubert"), "segment", "--help"]
    assert subprocess.run(command, cwd="/", check=True, capture_output=True).stdout
    job = (site, "segment", site / "sdhubert_ray" / "assets" / "demo", tmp_path / "out")
    done = forks.run_script(INSTALLED, *job, "--checkpoint", "bundled", "--engine", "local")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out" / "segments").glob("*.parquet"))
