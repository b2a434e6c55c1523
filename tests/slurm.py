"""A real Slurm on this machine, for tests: two nodes with fake GPUs, a partition and one that goes before it."""

import os
import re
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

PACKAGES = ("slurm-wlm", "munge")
ETC = Path("/etc/slurm")  # programs that Snakemake starts forget SLURM_CONF
HOSTS = Path("/etc/hosts")
NODES = "127.0.0.1 n1 n2 # of makelm's tests\n"  # the first process of a training is found by its node's name
NULL = os.makedev(1, 3)

SITE = """
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# what is put back into the queue starts once its credential is old: after 5 seconds and not 120
AuthInfo=cred_expire=5
CredType=cred/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd-%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd-%n.log
ProctrackType={track}
# both nodes are one machine: bound to cores, all that they run would share its first one
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=200000,batch_sched_delay=0
ReturnToService=2
SlurmdParameters=config_overrides
MinJobAge=600
# a node that says nothing for so many seconds is down
SlurmdTimeout=15
KillWait=20
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[16821-16822] CPUs=2 Boards=1 SocketsPerBoard=1 \
CoresPerSocket=2 ThreadsPerCore=1 RealMemory=6000 Gres=gpu:2 State=UNKNOWN
PartitionName=plain Nodes=n[1-2] Default=YES MaxTime=01:00:00 DefMemPerCPU=100 PriorityTier=1 GraceTime=20 State=UP
PartitionName=first Nodes=n[1-2] Default=NO MaxTime=01:00:00 DefMemPerCPU=100 PriorityTier=10 PreemptMode=OFF State=UP
"""
CGROUP = """
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
"""


def lacks() -> str | None:
    """Returns what keeps this machine from running a Slurm of its own, or None. Installs packages if it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if ETC.joinpath("slurm.conf").exists() and not ETC.joinpath("slurm.conf").is_symlink():
        return f"{ETC}/slurm.conf is there: this machine has a Slurm already"
    if all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        return None
    if not shutil.which("apt-get"):
        return f"neither Slurm nor apt-get is here to install {' and '.join(PACKAGES)}"
    for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-q", *words], capture_output=True, text=True)
        if done.returncode:
            return f"apt-get {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}"
    return None


class Slurm:
    """The daemons, from start to stop; each is ended by its own number."""

    def __init__(self, base: Path):
        self.base, self.pids = base, []

    def start(self) -> None:
        """Starts munged, slurmctld and two slurmd; returns when both nodes are idle."""
        for name in ("state", "log", "spool/n1", "spool/n2", "dev"):
            (self.base / name).mkdir(parents=True)
        cgroups = os.access("/sys/fs/cgroup/freezer", os.W_OK)  # else processes are tracked by their groups
        track = "proctrack/cgroup" if cgroups else "proctrack/pgid"
        self.write("slurm.conf", SITE.format(base=self.base, track=track))
        self.write("cgroup.conf", CGROUP if cgroups else "")
        lines = []
        for node in ("n1", "n2"):
            for number in (0, 1):
                device = self.base / f"dev/{node}-{number}"
                os.mknod(device, 0o666 | stat.S_IFCHR, NULL)
                lines.append(f"NodeName={node} Name=gpu File={device}\n")
        self.write("gres.conf", "".join(lines))
        if NODES not in HOSTS.read_text():
            HOSTS.write_text(HOSTS.read_text() + NODES)
        if not self.munge_answers():
            Path("/run/munge").mkdir(exist_ok=True, mode=0o755)
            shutil.chown("/run/munge", "munge", "munge")
            subprocess.run(["runuser", "-u", "munge", "--", "/usr/sbin/munged"], check=True)
            self.pids.append(Path("/run/munge/munged.pid"))
        subprocess.run(["/usr/sbin/slurmctld"], check=True, capture_output=True)
        for node in ("n1", "n2"):
            self.start_node(node)
        self.pids += [self.base / f"{name}.pid" for name in ("slurmctld", "slurmd-n1", "slurmd-n2")]
        wait_until(lambda: node_states() == ["idle"] * 2, 20)

    def start_node(self, node: str) -> None:
        """Starts the daemon of a node."""
        subprocess.run(["/usr/sbin/slurmd", "-N", node], check=True, capture_output=True)

    def kill_node(self, node: str) -> None:
        """Kills all that runs on a node, as if it had lost its power: its daemon first, so that nobody hears of it."""
        daemon = psutil.Process(int((self.base / f"slurmd-{node}.pid").read_text()))
        daemon.kill()
        daemon.wait()
        for process in [each for each in psutil.process_iter() if runs_on(each) == node]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def write(self, name: str, text: str) -> None:
        """Writes a file of settings and puts it where all programs of Slurm look."""
        (self.base / name).write_text(text)
        ETC.mkdir(exist_ok=True)
        (ETC / name).unlink(missing_ok=True)
        (ETC / name).symlink_to(self.base / name)

    def munge_answers(self) -> bool:
        """Returns whether a munged is there that says who sends what."""
        return subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0

    def stop(self) -> None:
        """Ends all jobs and the daemons that this started."""
        subprocess.run(["scancel", "--quiet", "-u", "root"], capture_output=True)
        wait_until(lambda: not states(), 30)
        for path in reversed(self.pids):
            if path.exists():
                os.kill(int(path.read_text()), signal.SIGTERM)
                wait_until(lambda path=path: not path.exists(), 20)
        for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
            (ETC / name).unlink(missing_ok=True)
        HOSTS.write_text(HOSTS.read_text().replace(NODES, ""))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Slurm that runs while the tests do; where there can be none, they are skipped and say why."""
    if why := lacks():
        pytest.skip(why)
    made = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def output(*words: str) -> str:
    """Returns what a command prints."""
    return subprocess.run(words, capture_output=True, text=True).stdout


def node_states() -> list[str]:
    """Returns the state of each node: idle, mixed, allocated, down, ..."""
    return [state.rstrip("*") for state in output("sinfo", "-h", "-N", "-p", "plain", "-o", "%T").split()]


def runs_on(process: psutil.Process) -> str | None:
    """Returns the node that a process of a job runs on, or that a slurmstepd keeps such a process for."""
    try:
        if process.name() == "slurmstepd":
            return next(filter(None, map(runs_on, process.children())), None)
        return process.environ().get("SLURMD_NODENAME")
    except psutil.Error:
        return None


def states() -> dict[int, str]:
    """Returns the state of each job that waits, runs or ends."""
    lines = output("squeue", "-h", "-o", "%A %T").splitlines()
    return {int(job): state for job, state in map(str.split, lines)}


def newest() -> int:
    """Returns the number of the job that was submitted last; those that ended long ago squeue has forgotten."""
    return int(re.search(r"NEXT_JOB_ID\s*=\s*(\d+)", output("scontrol", "show", "config"))[1]) - 1


def jobs(rule: str, since: int = 0) -> list[tuple[int, str, str]]:
    """Returns (number, state, nodes) of a rule's jobs after the one numbered `since`; ended ones too, in order."""
    lines = output("squeue", "-h", "--states=all", "--sort=i", "-o", "%A|%T|%N|%k").splitlines()
    found = [(int(job), *rest) for job, *rest in (line.split("|") for line in lines)]
    return [(job, state, nodes) for job, state, nodes, what in found if job > since and what.startswith(f"rule_{rule}")]


def expanded(nodes: str) -> set[str]:
    """Returns the names that a list of nodes such as n[1-2] stands for."""
    return set(output("scontrol", "show", "hostnames", nodes).split())


def wait_until(true, seconds: float) -> None:
    """Returns when something has become true; fails where it takes longer than so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"nothing after {seconds} s:\n{output('squeue')}\n{output('sinfo', '-NR')}"
        time.sleep(0.1)
