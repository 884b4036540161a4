"""Who uses a model: told from real processes, and unknown wherever it cannot be told for sure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from judge_node.cache.manifest import Manifest
from judge_node.cache.store import Store
from judge_node.cache.usage import Processes, Use, User, read_use
from unit.node.model_stores import REPO, Only, add_model, commit_of, running

A, B = (REPO, commit_of("a")), (REPO, commit_of("b"))
POD = "0f3c1a5e-1111-2222-3333-444455556666"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hub")


@pytest.fixture
def models(store: Store) -> tuple[Manifest, Manifest]:
    return add_model(store, "a"), add_model(store, "b")


def shard(store: Store, manifest: Manifest) -> Path:
    """Return the file that only this model has, by the path that a program opens."""
    return store.snapshot(manifest) / "model-00001-of-00002.safetensors"


def child(code: str, *arguments: str | Path, **options: Any) -> Any:
    """Run Python that does `code` and then waits; the arguments are read from a pipe, so that they name nothing."""
    text = "import os, sys\n" + textwrap.dedent(code) + "\nprint('ready', flush=True)\nsys.stdin.read()\n"
    options.setdefault("cwd", "/")
    options.setdefault("env", {})
    return running(sys.executable, "-c", text, *arguments, **options)


def hidden(path: Path) -> str:
    """Return Python that spells a path without the commit or a hash in the arguments."""
    return "+".join(repr(str(path)[at : at + 7]) for at in range(0, len(str(path)), 7))


def used(store: Store, *pids: int) -> dict[tuple[str, str], list[str]]:
    use = read_use(store, Only(*pids))
    assert use.unknown is None
    return {key: [user.how for user in users] for key, users in use.users.items()}


def test_open_file_is_use(store: Store, models: tuple[Manifest, ...]) -> None:
    with child(f"f = open({hidden(shard(store, models[0]))})") as pid:
        use = read_use(store, Only(pid))
    command = Path(sys.executable).name[:15]
    assert use.users == {A: (User(pid, command, None, "has a file of it open"),)}


def test_blob_that_two_models_share_is_use_of_both(store: Store, models: tuple[Manifest, ...]) -> None:
    with child(f"f = open({hidden(store.snapshot(models[0]) / 'model-00002-of-00002.safetensors')})") as pid:
        assert used(store, pid) == {A: ["has a file of it open"], B: ["has a file of it open"]}


def test_open_folder_is_use(store: Store, models: tuple[Manifest, ...]) -> None:
    with child(f"f = os.open({hidden(store.snapshot(models[0]))}, os.O_RDONLY)") as pid:
        assert used(store, pid) == {A: ["has a file of it open"]}


MAPPED = """
import ctypes
fd = os.open({path}, os.O_RDONLY)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
assert libc.mmap(None, ctypes.c_size_t(4096), 1, 2, fd, ctypes.c_size_t(0)) != ctypes.c_void_p(-1).value
os.close(fd)
"""


def test_mapped_file_is_use_after_it_was_closed(store: Store, models: tuple[Manifest, ...]) -> None:
    with child(MAPPED.format(path=hidden(shard(store, models[1])))) as pid:
        assert used(store, pid) == {B: ["has it in memory"]}


def test_file_that_is_open_under_another_name_is_use(
    store: Store, models: tuple[Manifest, ...], tmp_path: Path
) -> None:
    os.link(shard(store, models[0]).resolve(), tmp_path / "other")
    with child(f"f = open({str(tmp_path / 'other')!r})") as pid:
        assert used(store, pid) == {A: ["has a file of it open"]}


def test_commit_in_the_arguments_is_use_of_that_commit_alone(store: Store, models: tuple[Manifest, ...]) -> None:
    path = f"--model=/models/models--judge-lab--tiny/snapshots/{commit_of('a')}"
    with child("", path, "--served-model-name", REPO) as pid:
        assert used(store, pid) == {A: ["names it in its arguments"]}


def test_commit_in_the_environment_is_use(store: Store, models: tuple[Manifest, ...]) -> None:
    with child("", env={"MODEL": f"{REPO}@{commit_of('b')}"}) as pid:
        assert used(store, pid) == {B: ["names it in its environment"]}


@pytest.mark.parametrize("argument", [REPO, f"--model={REPO}", "/x/models--judge-lab--tiny", f'{{"model":"{REPO}"}}'])
def test_repository_in_the_arguments_is_use_of_all_its_commits(
    store: Store, models: tuple[Manifest, ...], argument: str
) -> None:
    with child("", argument) as pid:
        assert used(store, pid) == {key: ["names its repository in its arguments"] for key in (A, B)}


@pytest.mark.parametrize(
    "argument",
    [f"{REPO}-2", f"my{REPO}", f"/srv/{REPO}/x", f"{REPO}.bak", "models--judge-lab--tiny-2", commit_of("a")[1:],
     commit_of("a") + "a", commit_of("c")],
)  # fmt: skip
def test_longer_name_and_other_hash_are_no_use(store: Store, models: tuple[Manifest, ...], argument: str) -> None:
    with child("", argument) as pid:
        assert used(store, pid) == {}


def test_working_folder_is_use(store: Store, models: tuple[Manifest, ...]) -> None:
    with child("", cwd=store.snapshot(models[0])) as pid:
        assert used(store, pid) == {A: ["works in it"]}


def test_process_that_touches_no_model_uses_none(store: Store, models: tuple[Manifest, ...]) -> None:
    ref = store.folder(REPO) / "refs/main"
    with child(f"f = open({hidden(ref)})") as pid:
        assert used(store, pid) == {}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_mount_of_a_snapshot_in_another_namespace_is_use(
    store: Store, models: tuple[Manifest, ...], tmp_path: Path
) -> None:
    target = tmp_path / "volume"
    target.mkdir()
    code = f"""
import os, sys
assert os.system("mount --bind {store.snapshot(models[0])} {target}") == 0
print("ready", flush=True)
sys.stdin.read()
"""
    argv = ("unshare", "--mount", sys.executable, "-c", _spelled(code))
    with running(*argv, cwd="/", env={"PATH": os.environ["PATH"]}) as pid:
        assert used(store, pid) == {A: [f"has it mounted at {target}"]}


def _spelled(code: str) -> str:
    """Return Python that runs `code`, without the code's hashes in it."""
    return f"exec({'+'.join(repr(code[at : at + 7]) for at in range(0, len(code), 7))})"


def test_process_that_ends_meanwhile_is_no_failure(store: Store, models: tuple[Manifest, ...]) -> None:
    with child("") as pid:
        pass
    assert used(store, pid) == {}


def test_dead_process_that_nobody_has_waited_for_is_no_failure(store: Store, models: tuple[Manifest, ...]) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert used(store, pid) == {}
    finally:
        os.waitpid(pid, 0)


# --- what can be told at all ------------------------------------------------------------------------------------------


class Node:
    """A /proc of its own: what this process sees of itself, and one other process."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.namespace = folder / "proc", folder / "pid-namespace"
        own = self.proc / "self"
        (self.proc / str(os.getpid()) / "ns").mkdir(parents=True)
        own.symlink_to(str(os.getpid()))
        self.be("pid:[4026531836]")
        (own / "ns/user").symlink_to("user:[4026531837]")
        (own / "mounts").write_text(f"proc {self.proc} proc rw,nosuid 0 0\n")
        (own / "status").write_text("CapEff:\t000001ffffffffff\n")
        other = self.other = self.proc / "4711"
        (other / "fd").mkdir(parents=True)
        (other / "ns").mkdir()
        (other / "ns/mnt").symlink_to("mnt:[1]")
        for name in ("cwd", "root"):
            (other / name).symlink_to("/")
        for name in ("maps", "cmdline", "environ", "cgroup", "mountinfo"):
            (other / name).write_text("")
        (other / "comm").write_text("vllm\n")

    def be(self, namespace: str) -> None:
        link = self.proc / "self/ns/pid"
        link.unlink(missing_ok=True)
        link.symlink_to(namespace)

    def blind(self) -> str | None:
        return Processes(self.proc, self.namespace).blind()

    def use(self, store: Store) -> Use:
        return read_use(store, Processes(self.proc, self.namespace))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    return Node(tmp_path / "node")


def test_root_of_the_node_sees_all(node: Node) -> None:
    assert node.blind() is None


def test_user_who_is_not_root_does_not(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert node.blind() == "other users' processes can be read by root only, and this runs as user 1000"


def test_container_does_not(node: Node) -> None:
    node.be("pid:[4026532999]")
    assert node.blind() == "this runs in a container, from which the node's other processes cannot be seen"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the file has to be root's")
def test_namespace_that_was_declared_to_be_the_node_does(node: Node) -> None:
    node.be("pid:[4026532999]")
    node.namespace.write_text("pid:[4026532999]\n")
    assert node.blind() is None


@pytest.mark.parametrize("declared", ["pid:[4026532998]", "", "pid:[4026531836]"])
def test_namespace_declared_for_another_one_does_not_count(node: Node, declared: str) -> None:
    node.be("pid:[4026532999]")
    node.namespace.write_text(declared)
    assert "this runs in a container" in str(node.blind())


def test_declaration_that_others_may_write_does_not_count(node: Node) -> None:
    node.be("pid:[4026532999]")
    node.namespace.write_text("pid:[4026532999]\n")
    node.namespace.chmod(0o666)
    assert "this runs in a container" in str(node.blind())


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_real_pid_namespace_is_a_container_until_it_is_declared_to_be_the_node(store: Store) -> None:
    add_model(store, "a", revision=None, days_old=30)
    add_model(store, "b", days_old=20)
    node = Path(sys.executable).parent / "judge-node"
    prune = f"{node} cache prune --store {store.root} --unused-for 25"
    declare = "mount -t tmpfs tmpfs /run && mkdir -p /run/judge-bootstrap"
    declare += " && readlink /proc/self/ns/pid >/run/judge-bootstrap/pid-namespace"
    script = f"{prune}; echo $?; {declare} && {prune}; echo $?"
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--mount", "sh", "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "3" and done.stderr.startswith("USE_UNKNOWN: nothing was deleted"), done
    assert done.stdout.splitlines()[1] == "removed 1 model: 5.0 KiB freed" and done.stdout.endswith("0\n"), done


def test_proc_of_another_namespace_shows_nothing_of_ours(node: Node) -> None:
    (node.proc / "1").mkdir()
    own = node.proc / str(os.getpid())
    own.rename(node.proc / "999999")
    (node.proc / "self").unlink()
    (node.proc / "self").symlink_to("999999")
    assert node.blind() == "/proc shows the processes of another container"


@pytest.mark.parametrize(
    ("option", "capabilities", "user", "blind"),
    [
        ("hidepid=0", "0", "user:[1]", False),
        ("hidepid=invisible", "000001ffffffffff", "user:[4026531837]", False),
        ("hidepid=2", "000001fffff7ffff", "user:[4026531837]", True),
        ("hidepid=2", "000001ffffffffff", "user:[1]", True),
        ("hidepid=ptraceable", "0", "user:[1]", True),
    ],
)
def test_hidden_processes_are_seen_by_who_may_trace_them(
    node: Node, option: str, capabilities: str, user: str, blind: bool
) -> None:
    (node.proc / "self/mounts").write_text(f"proc {node.proc} proc rw,{option} 0 0\n")
    (node.proc / "self/status").write_text(f"Name:\tx\nCapEff:\t{capabilities}\n")
    link = node.proc / "self/ns/user"
    link.unlink()
    link.symlink_to(user)
    assert (node.blind() == "/proc is mounted with hidepid") is blind


def test_process_that_cannot_be_read_leaves_use_unknown(
    node: Node, store: Store, models: tuple[Manifest, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == node.other / "maps":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert node.use(store).unknown == "process 4711 (vllm) cannot be read: Permission denied"


# As kubelet names them with the systemd driver (cgroup v2, v1) and with cgroupfs.
SLICE = f"pod{POD.replace('-', '_')}.slice"
CGROUPS = [
    f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{SLICE}/cri-containerd-a.scope",
    f"0::/kubepods/besteffort/pod{POD}/0123456789abcdef",
    f"11:memory:/kubepods.slice/kubepods-{SLICE}\n0::/",
]


@pytest.mark.parametrize("cgroup", CGROUPS)
def test_pod_is_told_from_the_cgroup(node: Node, store: Store, models: tuple[Manifest, ...], cgroup: str) -> None:
    (node.other / "cgroup").write_text(cgroup + "\n")
    (node.other / "cmdline").write_text(f"vllm\0serve\0/models/x/snapshots/{commit_of('a')}\0")
    assert node.use(store).users == {A: (User(4711, "vllm", POD, "names it in its arguments"),)}


def test_kubelets_mount_of_a_snapshot_names_the_pod(node: Node, store: Store, models: tuple[Manifest, ...]) -> None:
    path = f"/var/lib/kubelet/pods/{POD}/volume-subpaths/models/vllm/0"
    (node.other / "mountinfo").write_text(
        f"99 1 259:1 /hub/models--judge-lab--tiny/snapshots/{commit_of('b')} {path} ro - xfs /dev/nvme1n1 rw\n"
    )
    assert node.use(store).users == {B: (User(4711, "vllm", POD, f"has it mounted at {path}"),)}


def test_repository_named_by_who_does_not_see_the_store_is_no_use(
    node: Node, store: Store, models: tuple[Manifest, ...]
) -> None:
    (node.other / "cmdline").write_text(f"proxy\0--model\0{REPO}\0")
    (node.other / "mountinfo").write_text("1 0 0:999 / / rw - overlay overlay rw\n")
    assert node.use(store).users == {}
    device = store.root.stat().st_dev
    (node.other / "mountinfo").write_text(
        f"1 0 {os.major(device)}:{os.minor(device)} /hub /models ro - xfs /dev/nvme1n1 rw\n"
    )
    assert set(node.use(store).users) == {A, B}


def test_the_shell_that_was_told_to_run_this_does_not_count_by_what_it_says(store: Store) -> None:
    manifest = add_model(store, "a")
    code = f"""
import sys; sys.path[:0] = {[path for path in sys.path if path]!r}
from pathlib import Path
from judge_node.cache.store import Store
from judge_node.cache.usage import read_use, Processes
class Mine(Processes):
    def blind(self): return None
    def pids(self): return sorted(self.ancestors())
print(read_use(Store(Path({str(store.root)!r})), Mine()).users)
"""
    argv = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, code, manifest.commit]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "{}\n", done.stderr


def test_use_is_noted_for_the_next_prune(store: Store, models: tuple[Manifest, ...]) -> None:
    with child("", commit_of("b")) as pid:
        read_use(store, Only(pid)).note(store)
    assert [path.name for path in (store.own / "used").rglob("*") if path.is_file()] == [commit_of("b")]
