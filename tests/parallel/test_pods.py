"""What the pod launchers would run, and that its counts, names and addresses fit together."""

import dataclasses
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from distill.parallel.startup import Startup, decide
from launch.pods.common import UsageError, stage_command
from launch.pods.gke import Job, manifest
from launch.pods.slurm import batch_script
from tests.parallel.pair import ROOT

STAGE = ["pipeline", "--config=configs/pod.py", "--workdir=/shared/run", "--config.student.widths=(64,256)"]
GPU = ["--image=image:1", "--claim=disc", "--hosts=4", "--devices_per_host=8", "--gpu=nvidia-h100-80gb"]
TPU = ["--image=image:1", "--claim=disc", "--hosts=8", "--devices_per_host=4", "--tpu=tpu-v5-lite-podslice"]


def dry_run(launcher, *flags, stage=STAGE):
    return subprocess.run(
        [sys.executable, "-m", f"launch.pods.{launcher}", "--dry_run", *flags, "--", *stage],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def printed(*arguments, **keywords):
    done = dry_run(*arguments, **keywords)
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags_of(command, cluster):
    """The flags of the stage that a host runs."""
    assert command[1:4] == ["-m", "launch.pipeline", f"--cluster={cluster}"]
    return command[4:]


def host_of(document):
    (job,) = document["spec"]["replicatedJobs"]
    assert job["replicas"] == 1
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    return job["name"], spec, container


def test_kubernetes_pods_find_each_other_through_the_headless_service():
    document = yaml.safe_load(printed("gke", *GPU))
    assert (document["kind"], document["apiVersion"]) == ("JobSet", "jobset.x-k8s.io/v1alpha2")
    name, spec, container = host_of(document)
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 4
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert flags_of(container["command"], "kubernetes") == STAGE[1:]
    network, run = document["spec"]["network"], document["metadata"]["name"]
    assert network["enableDNSHostnames"] and network["publishNotReadyAddresses"]
    # JobSet names a pod JOBSET-JOB-REPLICA-INDEX, below the service.
    first = f"{run}-{name}-0-0.{network['subdomain']}"
    (port,) = container["ports"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    starts = [decide(environment | {"JOB_COMPLETION_INDEX": str(i)}, cluster="kubernetes") for i in range(4)]
    assert starts == [Startup(4, i, coordinator=f"{first}:{port['containerPort']}") for i in range(4)]
    (volume,), (mount,) = spec["template"]["spec"]["volumes"], container["volumeMounts"]
    assert volume["persistentVolumeClaim"]["claimName"] == "disc" and volume["name"] == mount["name"]
    assert "/shared/run".startswith(mount["mountPath"])


def test_a_tpu_slice_on_kubernetes_has_the_chips_of_its_topology():
    _, spec, container = host_of(yaml.safe_load(printed("gke", *TPU, "--topology=4x8")))
    selector = spec["template"]["spec"]["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-topology"] == "4x8"
    assert spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == 32
    # Kubernetes itself tells TPU pods who they are.
    assert flags_of(container["command"], "tpu") == STAGE[1:] and "env" not in container


def test_slurm_starts_one_process_a_node_with_all_its_gpus():
    script = printed("slurm", "--nodes=4", "--gpus_per_node=8", "--sbatch=--partition=gpu")
    assert script.startswith("#!/bin/bash\n")
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in script.splitlines()
        if line.startswith("#SBATCH")
    )
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("4", "1", "8")
    assert options["partition"] == "gpu" and options["signal"].startswith("TERM@")
    (step,) = [shlex.split(line) for line in script.splitlines() if line.startswith("srun")]
    assert flags_of(step[step.index(".venv/bin/python") :], "slurm") == STAGE[1:]
    environment = {
        "SLURM_JOB_ID": "5",
        "SLURM_NTASKS": options["nodes"],
        "SLURM_STEP_NUM_TASKS": options["nodes"],
        "SLURM_STEP_TASKS_PER_NODE": f"{options['ntasks-per-node']}(x{options['nodes']})",
        "SLURM_STEP_NODELIST": "node[01-04]",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "0",
        "SLURM_GPUS_ON_NODE": options["gpus-per-node"],
    }
    start = decide(environment, cluster="slurm")
    assert start == Startup(4, 3, method="slurm", local_devices=tuple(range(8)))


def slurm(**fields):
    given = {"name": "run", "nodes": 2, "gpus_per_node": 1, "hours": 1, "options": ["--exclusive"], "command": []}
    return batch_script(**(given | fields))


def test_bash_accepts_the_slurm_script():
    script = slurm(command=["python", "a b;c", "'"])
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    echoed = subprocess.run(
        ["bash"], input="srun() { printf '%s\\n' \"$@\"; }\n" + script, text=True, capture_output=True
    )
    assert echoed.stdout.splitlines() == ["--kill-on-bad-exit=1", "python", "a b;c", "'"]


def test_ssh_reaches_every_host_of_a_tpu_slice():
    command = shlex.split(printed("tpu", "--name=slice", "--zone=zone-a", "--project=mine"))
    assert command[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "slice"]
    assert {"--zone=zone-a", "--project=mine", "--worker=all"} <= set(command)
    remote = next(word.removeprefix("--command=") for word in command if word.startswith("--command="))
    folder, _, rest = remote.partition(" && ")
    assert folder == "cd llmdistill4ads"
    assert flags_of(shlex.split(rest), "tpu") == STAGE[1:]


def gke(stage=STAGE, **fields):
    job = Job("run", "image:1", "disc", 8, 4, gpu=None, tpu="tpu-v5-lite-podslice", topology="4x8", restarts=1)
    return manifest(dataclasses.replace(job, **fields), stage, "python")


@pytest.mark.parametrize(
    ("render", "words"),
    [
        (lambda: gke(topology="4x4"), "--topology=4x4: has 16 chips"),
        (lambda: gke(topology=None), "--topology=None"),
        (lambda: gke(tpu=None), "--gpu, --tpu"),
        (lambda: gke(name="Not_A_Name"), "--name=Not_A_Name"),
        (lambda: gke(hosts=0), "--hosts=0"),
        (lambda: gke([*STAGE[:2], "--workdir=/tmp/run"]), "--workdir: must lie below /shared"),
        (lambda: slurm(nodes=0), "--nodes=0"),
        (lambda: slurm(name="two words"), "--name=two words"),
        (lambda: slurm(options=["partition=gpu"]), "--sbatch=partition=gpu"),
        (lambda: stage_command(["polish", *STAGE[1:]], python="python", cluster="tpu"), "give the stage"),
        (lambda: stage_command(STAGE[:2], python="python", cluster="tpu"), "--workdir: is missing"),
        (lambda: stage_command([*STAGE[:2], "--workdir=run"], python="python", cluster="tpu"), "must be an absolute"),
    ],
)
def test_what_cannot_work_is_refused(render, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        render()


def test_a_refusal_is_one_line():
    failed = dry_run("gke", *GPU[1:])
    assert failed.returncode == 1 and failed.stderr.strip() == "error: --image: is missing"


def test_a_name_cannot_add_lines_to_the_manifest():
    _, _, container = host_of(yaml.safe_load(gke(image='a"\n  b: c')))
    assert container["image"] == 'a"\n  b: c'
