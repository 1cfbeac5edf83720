"""Who joins whom, from hand-written environments of each cluster."""

import pytest
from jax._src.clusters import ClusterEnv

from distill.config import ConfigError
from distill.parallel.startup import Startup, decide

SLURM_BATCH = {"SLURM_JOB_ID": "71", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SLURM = SLURM_BATCH | {
    "SLURM_STEP_NODELIST": "node[007-008]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
SLURM_NODES = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0", "SLURM_GPUS_ON_NODE": "8"}
OPENMPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
OPENMPI_4 = OPENMPI | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
KUBERNETES = {
    "JOB_COMPLETION_INDEX": "2",
    "JAX_NUM_PROCESSES": "4",
    "JAX_COORDINATOR_ADDRESS": "run-host-0-0.run:8476",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "host-0,host-1"}

ALONE = [
    {},
    SLURM_BATCH,  # the body of a batch script
    SLURM | {"SLURM_STEP_NUM_TASKS": "1"},  # an interactive shell inside a larger allocation
    OPENMPI_4 | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    {"JOB_COMPLETION_INDEX": "2", "KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # an indexed job of independent tasks
    {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"},
]


@pytest.mark.parametrize("environment", ALONE)
def test_a_process_is_alone_unless_the_environment_is_certain(environment):
    assert decide(environment) == Startup() and decide(environment).alone


@pytest.mark.parametrize("environment", [SLURM, OPENMPI_4, KUBERNETES, TPU])
def test_a_flag_can_forbid_what_the_environment_offers(environment):
    assert decide(environment, cluster="none").alone
    assert decide(environment, processes=1).alone


def test_flags_alone_are_enough():
    start = decide({}, coordinator="10.0.0.1:1234", processes=2, process=1)
    assert start == Startup(2, 1, coordinator="10.0.0.1:1234")


def test_each_cluster_says_how_many_and_which():
    assert decide(KUBERNETES) == Startup(4, 2, coordinator="run-host-0-0.run:8476")
    assert decide(SLURM) == Startup(4, 3, method="slurm")
    assert decide(OPENMPI_4) == Startup(2, 1, method="ompi")
    assert decide(TPU) == Startup(None, None, method="gketpu")
    assert decide(TPU | {"TPU_WORKER_HOSTNAMES": "host-0", "MEGASCALE_NUM_SLICES": "2"}).method == "gketpu"


def test_tpu_machines_outside_kubernetes_have_to_be_asked_for():
    assert decide({}, cluster="tpu") == Startup(None, None, method="gcetpu")


def test_a_slurm_task_alone_on_its_node_has_all_its_accelerators():
    assert decide(SLURM_NODES).local_devices == (0, 1, 2, 3, 4, 5, 6, 7)
    assert decide(SLURM).local_devices is None


@pytest.mark.parametrize(
    ("environment", "coordinator"),
    [(SLURM, "node007:61511"), (OPENMPI_4, "10.96.0.1:62624")],
)
def test_jax_finds_the_coordinator_by_the_method_named(monkeypatch, environment, coordinator):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start = decide(environment)
    found = ClusterEnv.auto_detect_unset_distributed_params(
        start.coordinator, start.processes, start.process, start.local_devices, start.method, 300
    )
    assert found[:3] == (coordinator, start.processes, start.process)


def test_the_environment_completes_the_flags():
    start = decide(OPENMPI, coordinator="10.0.0.1:1234")
    assert start == Startup(2, 1, coordinator="10.0.0.1:1234")
    assert decide(KUBERNETES, coordinator="other:99").coordinator == "other:99"
    with pytest.raises(ConfigError, match=r"--processes: is missing"):
        decide(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, coordinator="10.0.0.1:1234")


@pytest.mark.parametrize(
    ("environment", "flags", "words"),
    [
        ({}, {"processes": 2}, r"--coordinator: is missing"),
        ({}, {"processes": 2, "coordinator": "a:1"}, r"--process: is missing"),
        ({}, {"processes": 2, "process": 2, "coordinator": "a:1"}, r"--process=2: must be from 0"),
        ({}, {"processes": 2, "process": 0, "coordinator": "a"}, r"--coordinator=a: must be HOST:PORT"),
        ({}, {"processes": 0}, r"--processes=0"),
        ({}, {"cluster": "slurm"}, r"--cluster=slurm: the environment shows no such cluster"),
        ({}, {"cluster": "cray"}, r"--cluster=cray: must be one of"),
        (OPENMPI, {}, r"--coordinator: is missing"),  # Open MPI 5
        ({"JAX_NUM_PROCESSES": "2"}, {}, r"JAX_COORDINATOR_ADDRESS is not"),
        (KUBERNETES | {"JAX_NUM_PROCESSES": "many"}, {}, r"JAX_NUM_PROCESSES='many'"),
    ],
)
def test_what_is_asked_for_and_incomplete_is_refused(environment, flags, words):
    with pytest.raises(ConfigError, match=words):
        decide(environment, **flags)
