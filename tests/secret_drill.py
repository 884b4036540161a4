"""Plant canary secrets, run every verb of the CLI, and look for them everywhere: used by the test and by figure R6."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import secrets
import signal
import string
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import click
from judge_bootstrap.cli.main import COMMANDS, cli
from judge_lab.hub import HubServer
from pod_servers import served
from run_drills import (
    MODEL_BYTES,
    RUN_ID,
    SOURCE,
    command_line,
    private_directories_of,
    slow_download,
)
from secret_judges import judging, lay_out, parrot
from ssh_hosts import MARK, Hosts, children_of, environment_of, pids, ssh_hosts, wait_until
from weights import HEAD_BYTES, weights

GATED = "drill/gated"
# These may stand in the environment of our own processes on the controller: that is how AWS's tools know who they are.
AWS_CANARIES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# These are in files, or typed; all others are in the environment of the user.
NOT_IN_ENVIRONMENT = ("KEY_IN_FILE", "KUBE_TOKEN", "TYPED_TOKEN")
# Words of a command line that stand for the drill's judges: one that judges, and one that says its key back.
JUDGE, PARROT = "JUDGE-URL", "PARROT-URL"
SAMPLE_SECONDS = 0.03
LARGEST_FILE_BYTES = 8 << 20


def canaries() -> dict[str, str]:
    """Return fresh secrets by name. They look like real ones: the AWS keys have signs that are quoted in URLs."""
    letters = string.ascii_letters + string.digits

    def word(length: int) -> str:
        return "".join(secrets.choice(letters) for _ in range(length))

    return {"HF_TOKEN": "hf_" + word(34), "HUGGING_FACE_HUB_TOKEN": "hf_" + word(34),
            "AWS_SECRET_ACCESS_KEY": f"{word(18)}/{word(10)}+{word(9)}",
            "AWS_SESSION_TOKEN": f"{word(80)}/+{word(12)}==",
            "JUDGE_API_KEY": "key-" + word(40), "KEY_IN_FILE": "key-" + word(40),
            "KUBE_TOKEN": "kube-" + word(40), "TYPED_TOKEN": "typed-" + word(30)}


def forms(secret: str) -> set[bytes]:
    """Return how a secret may look in bytes: as it is, URL-quoted, and in base64 at each of its three alignments."""
    raw = secret.encode()
    found = {raw, quote(secret).encode(), quote(secret, safe="").encode()}
    for shift in range(3):
        # The first and last signs depend on the neighbours; what is between them does not.
        found.add(base64.b64encode(b"\0" * shift + raw)[4 if shift else 0:-4])
    return found


@dataclass(frozen=True)
class Finding:
    """A canary found where it must not be."""

    scenario: str
    canary: str
    where: str


@dataclass
class Watch:
    """Looks for canaries; `allowed` are files that hold one on purpose."""

    secrets: Mapping[str, str]
    allowed: set[Path]
    findings: set[Finding] = field(default_factory=set)
    samples: int = 0

    def __post_init__(self) -> None:
        self._forms = {name: forms(secret) for name, secret in self.secrets.items()}

    def look(self, scenario: str, where: str, data: bytes, *, names: tuple[str, ...] | None = None) -> None:
        """Note every canary (of `names`) that `data` holds."""
        for name in names or tuple(self._forms):
            if any(form in data for form in self._forms[name]):
                self.findings.add(Finding(scenario, name, where))

    def look_at_processes(self, scenario: str, cli_pid: int) -> None:
        """Look at all argv, at the environment of what runs on hosts, and of what a run started here."""
        self.samples += 1
        beside_aws = tuple(name for name in self.secrets if name not in AWS_CANARIES)
        # A child that has not started its program yet is the CLI itself, for the moment of a fork.
        started_here = {pid for pid in children_of(cli_pid) if command_line(pid) != command_line(cli_pid)}
        for pid in pids():
            if pid in (cli_pid, os.getpid()):
                continue  # the CLI was given the secrets by its user, and this program made them
            with contextlib.suppress(OSError):
                argv = Path(f"/proc/{pid}/cmdline").read_bytes()
                self.look(scenario, f"argv of {argv.split(b'/')[-1][:40]!r}", argv)
            environment = environment_of(pid)
            if any(item.startswith(MARK.encode()) for item in environment):
                self.look(scenario, "environment on a host", b"\0".join(environment))
            elif pid in started_here or any(item.startswith(RUN_ID) for item in environment):
                self.look(scenario, "environment of a run's process", b"\0".join(environment), names=beside_aws)

    def look_at_files(self, scenario: str, root: Path, *, but: tuple[str, ...] = ()) -> None:
        """Look at every file below `root`."""
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder) / name
                if path in self.allowed or name in but:
                    continue
                with contextlib.suppress(OSError):
                    if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST_FILE_BYTES:
                        self.look(scenario, f"file {path}", path.read_bytes())


@dataclass(frozen=True)
class Scenario:
    """One command line. `codes`: exit codes that show it did what it is for; `interrupt`: Ctrl-C while it works."""

    verb: str
    words: tuple[str, ...]
    codes: tuple[int, ...] = (0,)
    interrupt: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What findings call it."""
        assigned = [f"{name}=..." for name in self.environment]
        return " ".join([*assigned, *self.words]) + (" + Ctrl-C" if self.interrupt else "")


def scenarios(typed: str) -> list[Scenario]:
    """Return every verb, in good and bad endings. `typed` is a secret that a user gives where it does not belong."""
    drill = ("--env", "drill")
    return [
        Scenario("site", ("--help",)),
        Scenario("site", ("--version",)),
        Scenario("site", (*drill, "-vvvvv"), (3,)),
        Scenario("run", (*drill, "run", "model_cache", "-vvvvv")),
        Scenario("run", (*drill, "--json", "run", "model_cache")),
        Scenario("run", (*drill, "run", "model_cache", "--limit", "node-1"), (130,), interrupt=True),
        Scenario("run", (*drill, "run", "model_cache", "-vvvvv"), (1,), environment={"HF_TOKEN": "hf_wrong" * 5}),
        Scenario("run", (*drill, "run", "model_cache", "-vvvvv", "-e", "model.revision=none"), (1,)),
        Scenario("run", (*drill, "run", "vllm_k8s", "-vvvvv"), (1,)),
        Scenario("run", (*drill, "run", "verify", "--diff"), (1,)),
        Scenario("run", (*drill, "run", "model_cache", "-e", f"hf_token={typed}"), (2,)),
        Scenario("run", (*drill, "--json", "run", "nvme", "-e", f"x={typed}", "-e", f"hf_token={typed}"), (2,)),
        Scenario("render", (*drill, "render", "--out", "rendered", "-vvv"), (0, 1, 2)),
        Scenario("plan", (*drill, "plan", "nvme", "model_cache", "-vvv"), (3,)),
        Scenario("models lock", (*drill, "models", "lock", "-vvv", "--out", "gated.model.json")),
        Scenario("models lock", (*drill, "models", "lock", "--check", "-e", f"hf_token={typed}"), (2,)),
        # Nobody answers for S3 there; the Hub is asked before, with the token.
        Scenario("models mirror", (*drill, "models", "mirror", "-vvv", "--to", "s3://drill-bucket/hub"), (1,)),
        # The stores are empty since the run that was interrupted: this brings the model again.
        Scenario("models update", (*drill, "models", "update", "--nodes-only", "-vvvvv")),
        Scenario("models update", (*drill, "models", "update", "-vvvvv"), (1,)),
        Scenario("models list", (*drill, "models", "list", "-vvvvv")),
        Scenario("models list", (*drill, "models", "list", "--json")),
        Scenario("models verify", (*drill, "models", "verify", "--deep", "-vvv")),
        # No cluster answers there.
        Scenario("models baseline", (*drill, "models", "baseline", "--out", "golden.json", "-vvv"), (1,)),
        Scenario("models prune", (*drill, "models", "prune", "--unused-for", "9999", "--check", "-vvv")),
        Scenario("models pin", (*drill, "models", "pin", GATED, "--why", "a drill", "-vvv")),
        Scenario("models unpin", (*drill, "models", "unpin", GATED, "-vvv")),
        Scenario("models rollback", (*drill, "models", "rollback", "--nodes-only", "-vvv"), (0, 1, 3)),
        Scenario("models rm", (*drill, "models", "rm", "drill/other", "-vvv")),
        Scenario("config show", (*drill, "config", "show")),
        Scenario("config show", (*drill, "config", "show", "--json")),
        Scenario("config show", ("--env", "far", "config", "show", "-vvv"), (0, 1)),
        # What Terraform says may hold a secret by mistake: the output is refused, whatever it is marked as.
        Scenario("config terraform", (*drill, "config", "terraform", "secret.tf.json", "--check", "-v"), (2,)),
        Scenario("config terraform", (*drill, "config", "terraform", "sensitive.tf.json", "--json"), (2,)),
        Scenario("config terraform", (*drill, "config", "terraform", "unknown.tf.json", "-vvv"), (2,)),
        Scenario("config terraform", (*drill, "config", "terraform", "good.tf.json", "-vvv"), (0,)),
        Scenario("doctor", (*drill, "doctor", "-vvv"), (0, 1, 2, 3)),
        Scenario("doctor", (*drill, "doctor", "--json"), (0, 1, 2, 3)),
        # No cluster answers in the drill: what is looked for is the way to that answer.
        # Nobody answers for the API server there; the token is read before it is asked.
        Scenario("secrets apply", (*drill, "secrets", "apply", "-vvv"), (1,)),
        Scenario("secrets apply", (*drill, "secrets", "apply", "--json", "-e", f"hf_token={typed}"), (2,)),
        Scenario("preflight", (*drill, "preflight", "--json", "-vvv"), (1,)),
        Scenario("models preload", (*drill, "models", "preload", "node-1", "-vvv"), (1,)),
        Scenario("health", (*drill, "health", "-vvv"), (1, 2)),
        Scenario("warmup", (*drill, "warmup", "-vvv", "--json"), (1, 2)),
        Scenario("logs", (*drill, "logs", "-f", "-vvv"), (1, 2)),
        *judge_scenarios(drill, typed),
        # The lab itself is brought up by the integration tests; here its commands only look, or refuse.
        Scenario("lab status", ("lab", "status"), (0, 1)),
        Scenario("lab env", ("lab", "env"), (0, 1)),
        Scenario("lab up", ("lab", "up", "--nodes", "999"), (2,)),
        Scenario("lab down", ("lab", "down", "--bogus"), (2,)),
        Scenario("lab node", ("lab", "node", "explode", "node-1"), (2,)),
    ]


def judge_scenarios(drill: tuple[str, ...], typed: str) -> list[Scenario]:
    """Return those of `judge`: keys in JUDGE_API_KEY and in a file, and a server that puts them into its errors."""
    pair = ("--prompt", "2+2?", "--response", "4")
    two = ("--prompt", "2+2?", "--response-a", "4", "--response-b", "5")
    in_file = ("--api-key-file", "api-key")
    return [
        Scenario("judge score", ("judge", "score", "--url", JUDGE, *pair, "-vvv")),
        Scenario("judge score", ("judge", "score", "--url", JUDGE, *pair, *in_file, "--json")),
        Scenario("judge score", ("judge", "score", "--url", PARROT, *pair, "-vvv"), (1,)),
        Scenario("judge score", ("judge", "score", "--url", PARROT, *pair, *in_file, "--json"), (1,)),
        Scenario("judge score", ("judge", "score", "--url", PARROT, *pair, *in_file, "--votes", "3", "-vvv"), (1,)),
        Scenario("judge score", ("judge", "score", "--url", f"http://user:{typed}@127.0.0.1:9", *pair), (2,)),
        Scenario("judge score", ("judge", "score", "--url", JUDGE, *pair), (2,),
                 environment={"JUDGE_API_KEY": f"Bearer {typed}"}),
        # No cluster answers there.
        Scenario("judge score", (*drill, "judge", "score", *pair, "-vvv"), (1,)),
        Scenario("judge compare", ("judge", "compare", "--url", JUDGE, *two, "-vvv")),
        Scenario("judge compare", ("judge", "compare", "--url", PARROT, *two, *in_file, "-vvv", "--json"), (1,)),
        Scenario("judge compare", ("judge", "compare", "pairs.jsonl", "--url", JUDGE, "--no-canaries", "-vvv")),
        # This judge likes everything, so its canaries fail the batch.
        Scenario("judge batch", ("judge", "batch", "items.jsonl", "--url", JUDGE, "-vvv"), (1,)),
        # What the judge could not be asked for is in the output with the server's own words.
        Scenario("judge batch", ("judge", "batch", "items.jsonl", "--url", PARROT, *in_file, "--out", "parrot.jsonl",
                                 "-vvv"), (1,)),
        Scenario("judge batch", ("judge", "batch", "items.jsonl", "--url", PARROT, "--out", "said.jsonl", "--json"),
                 (1,)),
        Scenario("judge calibrate", ("judge", "calibrate", "gold.jsonl", "--url", JUDGE, "-vvv")),
        Scenario("judge calibrate", ("judge", "calibrate", "gold.jsonl", "--url", PARROT, *in_file, "--json"), (1,)),
        Scenario("judge report", ("judge", "report", "items.verdicts.jsonl", "-vvv")),
        Scenario("judge report", ("judge", "report", "parrot.jsonl", "--json")),
    ]


def verbs() -> set[str]:
    """Return the names of all commands that can be run, and `site` for none."""
    found = {"site"}
    ctx = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(ctx, name)
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}" for inner in command.list_commands(ctx)}
        else:
            found.add(name)
    return found


@dataclass
class SecretDrill:
    """The hosts, the Hub and the CLI's scratch folders; `secrets` are planted everywhere a user may have them."""

    root: Path
    hosts: Hosts
    hub: HubServer
    watch: Watch
    # What stands in a command line for the URL that is not known before the drill.
    urls: Mapping[str, str]

    def play(self, scenario: Scenario) -> int:
        """Run one scenario under observation; return its exit code."""
        log = self.root / "run.log"
        self.hub.faults[:] = [slow_download()] if scenario.interrupt else []
        if scenario.interrupt:
            self._forget_the_model()
        words = [self.urls.get(word, word) for word in scenario.words]
        process = subprocess.Popen([sys.executable, "-m", "judge_bootstrap", *words], cwd=self.root / "work",
                                   env={**self.environment(log), **scenario.environment}, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        ended = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(scenario, process.pid, ended), daemon=True)
        sampler.start()
        if scenario.interrupt:
            wait_until(lambda: process.poll() is not None or self._fetching(), 300, "a host to fetch the model")
            process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=600)
        ended.set()
        sampler.join()
        self.watch.look(scenario.name, "stdout", stdout)
        self.watch.look(scenario.name, "stderr", stderr)
        self.watch.look_at_files(scenario.name, self.root)
        for host in self.hosts.hosts:
            # Past the mounts of this machine into the host's own: its store, and where the node program lies.
            inside = Path(f"/proc/{host.holder.pid}/root")
            for folder in (str(host.store), "/usr/local/lib", "/usr/local/bin"):
                self.watch.look_at_files(scenario.name, inside / folder.lstrip("/"))
        for left in private_directories_of(process.pid):
            self.watch.findings.add(Finding(scenario.name, "a private directory", f"left behind: {left}"))
        log.unlink(missing_ok=True)
        if process.returncode not in scenario.codes:
            raise AssertionError(f"{scenario.name} ended with {process.returncode}, wanted one of {scenario.codes}:\n"
                                 f"{stdout.decode()}\n{stderr.decode()}")
        return process.returncode

    def _forget_the_model(self) -> None:
        """Empty the stores: an earlier scenario has filled them, and a run with nothing to do ends before Ctrl-C."""
        for host in self.hosts.hosts:
            host.in_namespace("rm", "-rf", f"{host.store}/hub")
        self.hub.requests.clear()

    def _fetching(self) -> bool:
        return any(request.download_host and request.method == "GET" for request in self.hub.requests)

    def _sample(self, scenario: Scenario, pid: int, ended: threading.Event) -> None:
        while not ended.is_set():
            self.watch.look_at_processes(scenario.name, pid)
            for folder in private_directories_of(pid):
                # The Hub token's own file is the one place where it may be: 0600, in memory, gone with the run.
                self.watch.look_at_files(scenario.name, folder, but=("hub-token",))
            # Modules that run on the controller: Ansible finds this home in passwd, not in HOME.
            self.watch.look_at_files(scenario.name, Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ansible" / "tmp")
            time.sleep(SAMPLE_SECONDS)

    def environment(self, log: Path) -> dict[str, str]:
        """Return the environment of a user who has all the secrets, and nothing else of this machine's."""
        given = {name: value for name, value in self.watch.secrets.items() if name not in NOT_IN_ENVIRONMENT}
        return {
            **given, "PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE / "pytool"), "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"), "LOG_FILE": str(log), "AWS_ACCESS_KEY_ID": "AKIADRILLDRILLDRILL0",
            # Nobody listens there: what must reach AWS fails at once.
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DEFAULT_REGION": "us-east-1",
            "KUBECONFIG": str(self.root / "kubeconfig"), "JUDGE_LAB_DIR": str(self.root / "lab"),
            "JUDGE_BOOTSTRAP_INVENTORY": str(self.hosts.inventory), "JUDGE_BOOTSTRAP_STATE": str(self.root / "state"),
        }


def write_outputs(work: Path, planted: Mapping[str, str]) -> set[Path]:
    """Write what Terraform may say of environment drill; return the files that have a secret in them."""
    node_group = {"name": "ai", "launch_template_id": "lt-0abc", "launch_template_version": 1,
                  "autoscaling_group_names": []}
    good = {"schema": 1, "region": "us-east-1", "environment": "drill", "cluster_name": "drill",
            "node_group": node_group, "inventory_filters": {"tag:role": "ai-gpu"}, "appconfig": None,
            "variables": {"nvme_nodeadm_path": "/mnt/k8s-disks"}}
    typed = planted["TYPED_TOKEN"]
    entries = {
        "good": (good, False), "sensitive": ({**good, "cluster_name": typed}, True),
        "unknown": ({**good, "variables": {"hf_token": typed}, "surprise": typed}, False),
        "secret": ({**good, "variables": {"model_cache_mirror": f"s3://{planted['HF_TOKEN']}"}}, False)}
    for name, (value, sensitive) in entries.items():
        entry = {"sensitive": sensitive, "type": "dynamic", "value": value}
        others = {"password": {"sensitive": True, "type": "string", "value": typed}}
        (work / f"{name}.tf.json").write_text(json.dumps({"judge_bootstrap": entry, **others}))
    return {work / f"{name}.tf.json" for name in entries}


@contextlib.contextmanager
def secret_drill(root: Path) -> Iterator[SecretDrill]:
    """Have two hosts and a Hub with a gated model, and canaries in the environment, in files and in a kubeconfig."""
    planted = canaries()
    for name in ("home", "tmp", "work", "state"):
        (root / name).mkdir(parents=True)
    model = root / "models" / GATED
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "qwen2"}')
    (model / "model.safetensors").write_bytes(weights(os.urandom(MODEL_BYTES - HEAD_BYTES)))
    kubeconfig, node_token = root / "kubeconfig", root / "node-token"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: drill\n"
        "clusters: [{name: drill, cluster: {server: 'https://127.0.0.1:9'}}]\n"
        f"users: [{{name: drill, user: {{token: {planted['KUBE_TOKEN']}}}}}]\n"
        "contexts: [{name: drill, context: {cluster: drill, user: drill}}]\n")
    node_token.write_text(planted["HF_TOKEN"])
    key_file = root / "work" / "api-key"
    key_file.write_text(planted["KEY_IN_FILE"])
    lay_out(root / "work")
    outputs = write_outputs(root / "work", planted)
    with (served(judging(planted["JUDGE_API_KEY"], planted["KEY_IN_FILE"])) as judge_url,
          served(parrot()) as parrot_url,
          HubServer(root / "models", "127.0.0.1", 0, tokens={GATED: planted["HF_TOKEN"]}) as hub,
          ssh_hosts(root / "hosts", 2, variables={
              "model_cache_repo_id": GATED, "model_cache_hub_endpoint": hub.url,
              "model_cache_token_file": str(node_token),
              # A device that is not there: the drill must not look at this machine's disks.
              # Nothing waits for it: these hosts share one lock.
              "nvme_device": "/dev/disk/by-id/judge-drill-none", "nvme_wait_seconds": 0, "vllm_k8s_quantization": None,
              "vllm_k8s_kubeconfig": str(kubeconfig)}) as hosts):
        far = hosts.inventory / "far" / "group_vars"
        far.mkdir(parents=True)
        (far / "all.yml").write_text(
            "judge_environment: {production: false, provider: aws, region: us-east-1, expected_hosts: null,\n"
            "  appconfig: {application: judge-bootstrap, environment: far, profile: judge-inference}}\n")
        yield SecretDrill(root, hosts, hub, Watch(planted, {kubeconfig, node_token, key_file, *outputs}),
                          {JUDGE: judge_url, PARROT: parrot_url})
