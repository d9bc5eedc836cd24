"""What `cluster/` holds is valid for the tools that read it, and fits this project."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from streamtrain.cli.flags import own_flags, parse, with_mode
from streamtrain.job import Job
from streamtrain.prepare.jobfile import load_job
from streamtrain.run.fleet.cluster.ray_metrics import EXPORTED, metric_name
from tests.support.command import ROOT
from tests.support.kuberay import DOCUMENTS

CLUSTER = ROOT / "cluster"
RAY_UP = sorted((CLUSTER / "ray_up").glob("*.yaml"))
RAY = "2.60.0"


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


@pytest.mark.parametrize("file", RAY_UP, ids=lambda file: file.stem)
def test_ray_up_takes_its_files(file: Path) -> None:
    prepared = prepare_config(read(file))
    validate_config(prepared)
    for where in ("head", "worker"):
        *_, start = prepared[f"{where}_start_ray_commands"]
        assert "RAY_AUTH_MODE=token" in start and "0.0.0.0" not in start
        subprocess.run(["bash", "-n", "-c", start], check=True)
    assert any(local == "~/.ray/auth_token" for local in prepared["file_mounts"].values())


def test_aws_takes_the_machines() -> None:
    """After EC2's own description of RunInstances, which botocore ships."""
    shape = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in read(CLUSTER / "ray_up" / "aws.yaml")["available_node_types"].items():
        request = {"MinCount": 1, "MaxCount": 1, **kind["node_config"]}
        report = botocore.validate.ParamValidator().validate(request, shape)
        assert not report.has_errors(), (name, report.generate_report())
        assert (name == "head") != (kind["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"})


def test_gcp_has_what_instances_insert_documents() -> None:
    known = {"machineType", "disks", "guestAccelerators", "metadata", "scheduling"}
    for name, kind in read(CLUSTER / "ray_up" / "gcp.yaml")["available_node_types"].items():
        node = kind["node_config"]
        assert set(node) <= known
        if name != "head":
            assert node["scheduling"]["provisioningModel"] == "SPOT"
        if "guestAccelerators" in node:  # such machines cannot be moved
            assert node["scheduling"]["onHostMaintenance"] == "TERMINATE"
            assert node["guestAccelerators"][0]["acceleratorCount"] == kind["resources"]["GPU"]


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_kuberay_takes_its_files(name: str) -> None:
    found = read(CLUSTER / "kuberay" / name)
    jsonschema.Draft202012Validator(DOCUMENTS[name]).validate(found)
    spec = found["spec"].get("rayClusterSpec", found["spec"])
    assert spec["authOptions"] == {"mode": "token"} and spec["rayVersion"] == RAY
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["securityContext"]["runAsNonRoot"]


def test_kuberays_schema_refuses_what_is_misspelled() -> None:
    found = read(CLUSTER / "kuberay" / "cluster.yaml")
    found["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        jsonschema.validate(found, DOCUMENTS["cluster.yaml"])


def test_the_job_of_kuberay_is_one_that_train_takes() -> None:
    words = shlex.split(read(CLUSTER / "kuberay" / "job.yaml")["spec"]["entrypoint"])
    assert words[:5] == ["python", "-m", "streamtrain", "train", "/jobs/mnist.py"]
    takes(words[5:])


@pytest.mark.parametrize("file", [*RAY_UP, CLUSTER / "kuberay" / "cluster.yaml", CLUSTER / "slurm.sh"], ids=str)
def test_what_the_first_lines_say_is_taken(file: Path) -> None:
    lines = [line.lstrip("# ").partition("  ")[0] for line in file.read_text().splitlines() if line.startswith("#   ")]
    assert lines
    for line in lines:
        if "jobs/mnist.py" in line:
            flags = shlex.split(line.partition("jobs/mnist.py")[2])
            takes(own_flags(flags, ("--address=", "--follow"))[1] if "submit" in line else flags)


def takes(flags: list[str]) -> None:
    job, flags = with_mode(load_job(ROOT / "jobs" / "mnist.py"), [flag for flag in flags if flag != "--resume"])
    parse(Job, flags, "train", "", default=job)


def test_everything_asks_for_the_ray_that_was_tested() -> None:
    for file in filter(Path.is_file, CLUSTER.rglob("*")):
        for line in file.read_text().splitlines():
            if "rayproject/ray:" in line or "ray[default]==" in line:
                assert RAY in line, (file, line)
    assert f"ray=={RAY}\n" in (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("file", sorted(CLUSTER.rglob("*.sh")), ids=lambda file: file.name)
def test_scripts_are_clean(file: Path) -> None:
    subprocess.run(["bash", "-n", str(file)], check=True)
    assert file.stat().st_mode & 0o111
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_systemd_takes_the_service(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    unit = (CLUSTER / "mlflow" / "mlflow.service").read_text()
    file = tmp_path / "mlflow.service"
    file.write_text(unit.replace("/opt/mlflow/bin/server.sh", str(CLUSTER / "mlflow" / "server.sh")))
    done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True)
    assert done.returncode == 0 and "mlflow.service" not in done.stderr, done.stderr


def test_grafana_draws_what_is_exported_and_all_of_it() -> None:
    board = json.loads((CLUSTER / "grafana.json").read_text())
    exported = {f"ray_{metric_name(curve)}" for curve in EXPORTED}
    drawn = set()
    for panel in board["panels"]:
        assert panel["type"] == "timeseries" and panel["title"] and panel["targets"]
        for target in panel["targets"]:
            found = re.fullmatch(r'(\w+)\{run=~"\$run"\}', target["expr"])
            assert found is not None
            drawn.add(found[1])
    assert drawn == exported
    assert [v["name"] for v in board["templating"]["list"]] == ["datasource", "run"]
    places = [panel["gridPos"] for panel in board["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells)) and all(x < 24 for x, _ in cells)


def test_every_exported_curve_is_one_that_runs_have() -> None:
    table = (ROOT / "streamtrain" / "track" / "README.md").read_text()
    for curve in EXPORTED:
        group, _, name = curve.rpartition("/")
        assert f"`{curve}`" in table or (f"`/{name}`" in table and f"`{group}/" in table), curve
