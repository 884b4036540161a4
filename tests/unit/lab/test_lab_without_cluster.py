"""The lab where Kubernetes' binaries cannot be had: when that is accepted, when refused, and how it is told."""

from __future__ import annotations

import io
import tarfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from judge_lab import LabError, binaries, clearing, images, network, prerequisites, process, runtime, site, state
from judge_lab.images import Image
from judge_lab.layout import Layout
from judge_lab.process import Process
from judge_lab.state import NodeState, State, load


class Built:
    """In the Builder's place: what it was given, and nothing built."""

    given: dict[str, Path] | None = None
    times = 0

    def __init__(self, state: State, found: dict[str, Path] | None, report: Any) -> None:
        Built.given, self.state = found, state

    def build(self) -> None:
        Built.times += 1
        self.state.save()


@pytest.fixture(autouse=True)
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A lab directory, cache and lock of the test's own, no network, and nothing that names the binaries."""

    def no_network(*_: object, **__: object) -> NoReturn:
        raise urllib.error.URLError("no route to host")

    for name in ("KUBEBUILDER_ASSETS", "JUDGE_BOOTSTRAP_KUBE_ARCHIVE", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUDGE_LAB_DIR", str(tmp_path / "lab"))
    monkeypatch.setenv("JUDGE_BOOTSTRAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(state, "LOCK_FILE", tmp_path / "lab.lock")
    monkeypatch.setattr(network, "bridge_owner", lambda: None)
    monkeypatch.setattr(prerequisites, "check", lambda: None)
    monkeypatch.setattr(runtime, "ensure", lambda report: None)
    monkeypatch.setattr(clearing, "found", lambda: [])
    monkeypatch.setattr(binaries.urllib.request, "urlopen", no_network)
    monkeypatch.setattr(site, "Builder", Built)
    Built.given, Built.times = None, 0
    return Layout(tmp_path / "lab")


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Process]:
    started = process.spawn(["sleep", "60"], log=tmp_path / "sleep.log", mark=tmp_path)
    yield started
    process.end([started])


def fill_cache() -> None:
    folder = Path(binaries.cache_dir()) / f"kube-{binaries.KUBERNETES_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in binaries.NAMES:
        (folder / name).touch()


def test_the_lab_goes_on_without_a_cluster_and_says_why_and_how_to_get_one(layout: Layout) -> None:
    said: list[str] = []
    site.up(report=said.append)
    assert (Built.times, Built.given) == (1, None)
    (line,) = [line for line in said if "Going on without a cluster" in line]
    assert line.startswith("no Kubernetes binaries: ")
    assert "no route to host" in line
    assert "JUDGE_BOOTSTRAP_KUBE_ARCHIVE" in line
    recorded = load(layout)
    assert recorded is not None
    assert recorded.kubernetes is False


def test_in_ci_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(LabError, match=r"no Kubernetes binaries: .*; in CI .* nothing may stand in") as caught:
        site.up()
    assert caught.value.hint == binaries.HOW_TO_GET
    assert Built.times == 0


def test_in_ci_a_lab_that_already_runs_without_a_cluster_is_an_error_too(
    layout: Layout, sleeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    State(layout, processes={"hub": sleeper}, kubernetes=False).save()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(LabError, match="nothing may stand in"):
        site.up()


def test_an_archive_that_is_named_and_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_BOOTSTRAP_KUBE_ARCHIVE", str(tmp_path / "missing.tar.xz"))
    with pytest.raises(LabError, match="cannot read .*missing.tar.xz"):
        site.up()
    assert Built.times == 0


def test_with_the_binaries_the_lab_has_a_cluster(layout: Layout) -> None:
    fill_cache()
    site.up()
    assert Built.given is not None
    recorded = load(layout)
    assert recorded is not None
    assert recorded.kubernetes is True


def test_a_lab_that_runs_without_a_cluster_stays_so_and_nothing_is_downloaded(
    layout: Layout, sleeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    State(layout, processes={"hub": sleeper}, kubernetes=False).save()
    monkeypatch.setattr(binaries, "find", lambda report: pytest.fail("asked for binaries"))
    site.up()
    assert (Built.times, Built.given) == (1, None)


def test_binaries_that_came_meanwhile_begin_a_lab_with_a_cluster(
    layout: Layout, sleeper: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    State(layout, processes={"hub": sleeper}, kubernetes=False).save()
    cleared: list[Layout] = []
    monkeypatch.setattr(clearing, "clear", cleared.append)
    fill_cache()
    said: list[str] = []
    site.up(report=said.append)
    assert cleared == [layout]
    assert Built.given is not None
    assert said == ["Kubernetes can be had now: beginning anew, with blank disks"]


def without_cluster(layout: Layout, sleeper: Process, **nodes: Any) -> State:
    names = ("aws", "appconfig", "hub", "podless")
    made = State(layout, processes=dict.fromkeys(names, sleeper), kubernetes=False,
                 nodes={"node-1": NodeState(1, process=sleeper, **nodes), "node-2": NodeState(2, process=sleeper)})
    made.save()
    return made


def test_it_counts_as_running_by_its_own_parts(layout: Layout, sleeper: Process) -> None:
    recorded = without_cluster(layout, sleeper)
    found = site.status()
    assert (found["running"], found["kubernetes"], found["nodes"]["node-1"]["ready"]) == (True, False, True)
    del recorded.processes["podless"]
    recorded.save()
    assert site.status()["running"] is False


def test_the_stand_ins_name_the_link_and_how_to_get_the_real_one(layout: Layout, sleeper: Process) -> None:
    real = "\n".join(site.stand_ins())
    assert "kubelet" in real
    assert "no Kubernetes" not in real
    without_cluster(layout, sleeper)
    told = "\n".join(site.stand_ins())
    assert "no Kubernetes: the manifests are rendered" in told
    assert "the pod's commands (the init container's first) run in the node's namespaces" in told
    assert f"the Secret with the judge's API key is the file {layout.api_key}" in told
    assert binaries.HOW_TO_GET in told
    assert "kubelet" not in told
    assert "device plugin" not in told


def test_only_without_a_cluster_manifests_and_endpoint_have_a_place(layout: Layout, sleeper: Process) -> None:
    names = ("JUDGE_LAB_RENDER_DIR", "JUDGE_LAB_ENDPOINT_URL")
    assert [site.environment()[name] for name in names] == ["", ""]
    without_cluster(layout, sleeper)
    assert [site.environment()[name] for name in names] == [str(layout.root / "manifests"), "http://10.77.0.11"]


def test_the_endpoint_is_on_the_first_node_that_can_be_reached(layout: Layout, sleeper: Process) -> None:
    without_cluster(layout, sleeper, plugged=False)
    assert site.environment()["JUDGE_LAB_ENDPOINT_URL"] == "http://10.77.0.12"


def test_an_image_is_unpacked_whole_and_once(tmp_path: Path) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as content:
        for name, mode in (("tmp", 0o1777), ("usr", 0o755)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            content.addfile(entry)
        link = tarfile.TarInfo("bin")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
        content.addfile(link)
    image = Image("a/b:1", tmp_path / "image.tar")
    images.write_archive(image, layer.getvalue(), ["sh"])
    images.unpack_root(image, tmp_path / "root")
    assert (tmp_path / "root/tmp").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "root/bin").readlink() == Path("usr/bin")
    image.archive.unlink()
    images.unpack_root(image, tmp_path / "root")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
