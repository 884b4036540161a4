"""R12: whatever settings, flags, inventories, manifests and replies hold, the answer is a known error, no traceback.

10,000 inputs: recorded or valid ones with seeded mutations (cut, doubled, swapped, other types, odd characters).
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from click.testing import CliRunner
from figures import Figure, report, small
from invalid_documents import invalid_document, valid_document
from judge_bootstrap.adapters import appconfig, config, inventory
from judge_bootstrap.adapters.appconfig import Fetched
from judge_bootstrap.adapters.state import LastGoodFile
from judge_bootstrap.adapters.terraform import known_variables
from judge_bootstrap.cli.main import cli
from judge_bootstrap.core import environment, layers, terraform
from judge_bootstrap.core.environment import AppConfigRef, Environment
from judge_bootstrap.core.errors import BootstrapError
from judge_bootstrap.core.layers import NamedText
from judge_bootstrap.core.schema import BY_VARIABLE, FIELDS
from judge_client.replies import InvalidReply, parse_reply
from judge_node.cache import manifest
from judge_node.disks import sysfs
from judge_node.result import NodeError

ROOT = Path(__file__).resolve().parents[1]
SEED = 12
KNOWN = (BootstrapError, NodeError, InvalidReply)
_ODD = ("", " ", "\n", "\0", "\x1b[2J", "\ud800", "\u202e", "{{ x }}", "{% raw %}", "%s", "{}", "'", '"', "\\", "=",
        "@", "a=b c=d", "@/etc", "-", "--", "null", "~", "true", "1e999", "9" * 5000, "0x10", "é", "\U0001f600",
        "../..", "/", "x" * 3000, "[", "]", "{",
        "&a", "*a", "!!python/object:os.system x", "!vault x", "!!int x", "2001-99-99",
        "? [a]", "<<: 1", "---", "#", "\t")
_MOUNTINFO = "36 35 98:0 /mnt1 /mnt/nvme rw,noatime master:1 - xfs /dev/nvme1n1 rw,errors=continue\n"
_REPLY = json.dumps({"reasoning": "fine", "scores": dict.fromkeys(
    ("accuracy", "relevance", "helpfulness", "safety", "pleasing", "overall"), 7)})
_MANIFEST = json.dumps({"schema": 1, "repo_id": "a/b", "revision": "main", "commit": "0" * 40, "files": [
    {"path": "config.json", "size": 2, "sha256": "a" * 64, "blob_sha1": None}]})

_OUTPUT = json.dumps({"judge_bootstrap": {"sensitive": False, "type": "dynamic", "value": {
    "schema": 1, "region": "us-east-1", "environment": "own", "cluster_name": "judge-own",
    "node_group": {"name": "ai", "launch_template_id": "lt-0abc", "launch_template_version": 1,
                   "autoscaling_group_names": ["eks-ai"]},
    "inventory_filters": {"instance-state-name": "running", "tag:role": "ai-gpu"},
    "appconfig": {"application": "a", "environment": "b", "profile": "c"},
    "variables": {"nvme_owner": "judge", "nvme_wait_seconds": 300, "model_cache_sources": ["https://a"]}}}})


def odd(chance: random.Random) -> Any:
    """Return a value of any JSON type, most of them a text that means trouble somewhere."""
    return chance.choice((*_ODD, None, True, -1, 0, 1.5, 10**30, float("nan"), [], {}, [[]], {"a": {"b": []}}))


def text(chance: random.Random) -> str:
    """Return one odd text, or several in a row."""
    return "".join(chance.choice(_ODD) for _ in range(chance.randint(1, 3)))


def mutated(chance: random.Random, good: str) -> str:
    """Return `good` with one to three changes: cut, doubled, a stretch replaced or removed."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randint(0, len(good))
        end = min(len(good), start + chance.randint(0, 12))
        good = chance.choice((good[:start], good[:start] + text(chance) + good[end:], good[:start] + good[end:],
                              good + good, good[:start] + good[start:end] * 3 + good[end:]))
    return good


def bytes_of(chance: random.Random, found: str) -> bytes:
    """Return the text as bytes, now and then in an encoding that is not UTF-8."""
    return found.encode(chance.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-7")), errors="surrogatepass")


class Inputs:
    """One method for each kind of input; each feeds one input to the code that reads it in a run."""

    def __init__(self, chance: random.Random, folder: Path) -> None:
        self.chance = chance
        self.store = LastGoodFile(folder / "state")
        self.own = folder / "inventory"
        variables = self.own / "own" / "group_vars"
        variables.mkdir(parents=True)
        self.all_yml = variables / "all.yml"
        self.filters = self.own / "own" / "aws_ec2.yml"
        self.defaults = layers.from_role_defaults([NamedText(str(path), path.read_text())
                                                   for path in sorted(ROOT.glob("roles/*/defaults/main.yml"))])
        self.known = known_variables()
        self.terraform_yml = self.own / "own" / "terraform.yml"
        self.made = terraform.inventory_text(terraform.read_output(_OUTPUT.encode(), self.known))
        ref = AppConfigRef(application="a", environment="b", profile="c")
        self.environment = Environment(name="own", inventory_dir=self.own / "own", production=False, region="us-east-1",
                                       appconfig=ref)
        self.group_vars = (ROOT / "inventory" / "prod" / "group_vars" / "all.yml").read_text()
        recorded: Mapping[str, Mapping[str, str]] = json.loads(
            (ROOT / "tests" / "unit" / "config" / "recorded_inventory.json").read_text())
        self.listing = recorded["lab"]["stdout"]
        self.complaints = [answer["stderr"] for answer in recorded.values() if answer["stderr"]]

    def document(self) -> None:
        """Feed the AppConfig answer, or the copy that was kept of one."""
        body = invalid_document(self.chance)[1] if self.chance.random() < 0.5 else bytes_of(
            self.chance, mutated(self.chance, json.dumps(valid_document(self.chance))))
        if self.chance.random() < 0.2:
            self.store.path.parent.mkdir(exist_ok=True)
            self.store.path.write_bytes(body)
            body = b""

        class Source:
            def fetch(self) -> Fetched:
                return Fetched(body, "1")

        layer = appconfig.read(self.environment, self.defaults, Source(), self.store, now=lambda: 0.0)
        layers.merge("own", [self.defaults, layer.values]).extra_vars()

    def variable(self) -> None:
        """Feed a JUDGE_BOOTSTRAP_* variable."""
        names = [item.env_variable for item in FIELDS.values()]
        name = self.chance.choice(names)
        if self.chance.random() < 0.3:
            name = "JUDGE_BOOTSTRAP_" + mutated(self.chance, name.removeprefix("JUDGE_BOOTSTRAP_"))
        layers.merge("own", [self.defaults, layers.from_environment({name: str(odd(self.chance))})])

    def flag(self) -> None:
        """Feed what follows one or two -e."""
        extra = []
        for _ in range(self.chance.randint(1, 2)):
            name = self.chance.choice([*FIELDS, *BY_VARIABLE, "model", "judge_inference", text(self.chance)])
            value = odd(self.chance)
            extra.append(self.chance.choice((
                f"{name}={value}", json.dumps({name: value}), mutated(self.chance, f"{name}={value}"),
                text(self.chance),
                mutated(self.chance, json.dumps({"judge_inference": valid_document(self.chance)["judge_inference"]})))))
        given, _ = layers.from_flags(extra, read_file=lambda name: mutated(self.chance, self.group_vars),
                                     role_variables=["vllm_k8s_replicas"])
        settings = layers.merge("own", [self.defaults, given.values], passed_on=given.passed_on)
        json.dumps(settings.extra_vars(), default=str)

    def group_vars_file(self) -> None:
        """Feed a group_vars file, to the settings and to the environment."""
        name = self.chance.choice(list(BY_VARIABLE))
        content = mutated(self.chance, f"{self.group_vars}\n{name}: {odd(self.chance)}\n")
        layers.merge("own", [self.defaults, layers.from_inventory([NamedText("all.yml", content)])])

    def judge_environment(self) -> None:
        """Feed judge_environment with odd keys and values."""
        good: dict[Any, Any] = {"production": True, "region": "us-east-1", "expected_hosts": 3,
                                "appconfig": {"application": "a", "environment": "b", "profile": "c"}}
        place = self.chance.choice([good, good["appconfig"]])
        place[self.chance.choice([*place, text(self.chance), 1, None])] = odd(self.chance)
        variables = {"judge_environment": self.chance.choice([good, good, good, odd(self.chance)])}
        environment.parse("own", self.own, variables, file="all.yml")

    def terraform_output(self) -> None:
        """Feed what `terraform output -json` says, and the file that is made of it when it is edited afterwards."""
        found = json.loads(_OUTPUT)
        entry = found["judge_bootstrap"]
        value = entry["value"]
        place = self.chance.choice([found, entry, value, value, value["node_group"], value["inventory_filters"],
                                    value["appconfig"], value["variables"], value["variables"]])
        place[self.chance.choice([*place, text(self.chance)])] = odd(self.chance)
        said = self.chance.choice((json.dumps(found), mutated(self.chance, json.dumps(found)),
                                   mutated(self.chance, _OUTPUT)))
        if self.chance.random() < 0.5:
            output = terraform.read_output(bytes_of(self.chance, said), self.known)
            made = terraform.inventory_text(output)
            assert terraform.read_inventory(made, "terraform.yml", self.known) == output
            return
        self.all_yml.write_text("judge_environment: {production: false, region: us-east-1, appconfig: null}\n")
        self.terraform_yml.write_bytes(bytes_of(self.chance, mutated(self.chance, self.made)))
        try:
            config.load(config.load_environment("own"))
        finally:
            self.terraform_yml.unlink()

    def inventory_answer(self) -> None:
        """Feed what ansible-inventory said, good or bad."""
        self.filters.write_bytes(bytes_of(self.chance, mutated(self.chance, "filters:\n  tag:role: ai-gpu\n")))
        failed = self.chance.random() < 0.4
        complaint = mutated(self.chance, self.chance.choice(self.complaints))
        answer = inventory.Answer(1 if failed else 0, mutated(self.chance, self.listing), complaint)
        limit = self.chance.choice((None, text(self.chance)))
        inventory.read(self.environment, limit, lister=lambda environment, limit: answer)

    def model_manifest(self) -> None:
        """Feed a node the manifest of a model."""
        found = json.loads(_MANIFEST)
        place = self.chance.choice([found, found["files"][0]])
        place[self.chance.choice([*place, text(self.chance)])] = odd(self.chance)
        odd_one = json.dumps(found)
        said = self.chance.choice((odd_one, mutated(self.chance, odd_one), mutated(self.chance, _MANIFEST)))
        manifest.parse(bytes_of(self.chance, said))

    def mounts(self) -> None:
        """Feed a node's mount table."""
        sysfs.parse_mountinfo(mutated(self.chance, _MOUNTINFO * self.chance.randint(1, 3)))

    def judge_reply(self) -> None:
        """Feed what a judge model answered."""
        parse_reply(mutated(self.chance, _REPLY))

    def command_line(self) -> None:
        """Feed a whole command line: `config show` in an environment whose group_vars may be broken too."""
        good = "judge_environment: {production: false, region: us-east-1}\nvllm_k8s_port: 8000\n"
        self.all_yml.write_bytes(bytes_of(self.chance, self.chance.choice((good, good, mutated(self.chance, good)))))
        words = ["--env", self.chance.choice(("own", "own", "own", text(self.chance))), "config", "show"]
        words += self.chance.choice(([], ["--json"], ["-e", text(self.chance)], [text(self.chance)]))
        # An environment block holds neither NUL nor lone surrogates.
        value = str(odd(self.chance)).replace("\0", "").encode(errors="ignore").decode()
        done = CliRunner().invoke(cli, words, env={self.chance.choice(list(FIELDS.values())).env_variable: value})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        if done.exit_code not in (0, 2):
            raise AssertionError(f"{words} ended with {done.exit_code}: {done.output}")
        if done.exit_code == 2 and "--json" not in words and not done.stderr.startswith(("Error: ", "Warning: ")):
            raise AssertionError(f"{words} said {done.stderr!r}")


SHARES: Mapping[str, int] = {"document": 20, "variable": 10, "flag": 20, "group_vars_file": 10, "judge_environment": 5,
                             "terraform_output": 10,
                             "inventory_answer": 10, "model_manifest": 10, "mounts": 2, "judge_reply": 8,
                             "command_line": 5}


def one_line(error: BaseException) -> bool:
    """Tell whether a known error reads as one line of visible characters, with a hint that does too."""
    if not isinstance(error, BootstrapError):
        return True
    return (error.message + (error.hint or "")).isprintable() and len(error.message) < 2000


@contextmanager
def quiet_place() -> Iterator[Path]:
    """Give a folder, and a process environment that names it and no AWS."""
    with tempfile.TemporaryDirectory(prefix="judge-r12-") as name:
        for variable in [variable for variable in os.environ if variable.startswith("JUDGE_BOOTSTRAP_")]:
            del os.environ[variable]
        os.environ |= {"JUDGE_BOOTSTRAP_INVENTORY": f"{name}/inventory", "JUDGE_BOOTSTRAP_STATE": f"{name}/state"}
        yield Path(name)


def main() -> int:
    count = 2000 if small() else 10_000
    chance = random.Random(SEED)
    kinds: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    tracebacks: list[str] = []
    unreadable: list[str] = []
    with quiet_place() as folder:
        inputs = Inputs(chance, folder)
        feeds: dict[str, Callable[[], None]] = {kind: getattr(inputs, kind) for kind in SHARES}
        for kind in chance.choices(list(SHARES), weights=list(SHARES.values()), k=count):
            kinds[kind] += 1
            try:
                feeds[kind]()
            except KNOWN as error:
                refused[kind] += 1
                if not one_line(error):
                    unreadable.append(f"{kind}: {error!r}")
            except Exception:
                tracebacks.append(f"{kind}: {traceback.format_exc()}")
    for line in [*tracebacks[:5], *unreadable[:5]]:
        sys.stderr.write(line + "\n")
    detail = {"inputs": count, "kinds": dict(kinds), "refused": dict(refused), "seed": SEED}
    return report(Figure("R12", len(tracebacks), "== 0", {"what": "tracebacks", **detail}),
                  Figure("R12", len(unreadable), "== 0",
                         {"what": "errors that are not one readable line", "inputs": count}))


if __name__ == "__main__":
    sys.exit(main())
