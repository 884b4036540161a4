"""Terraform or OpenTofu as a user calls it, kept away from the user's own settings, credentials and state.

The provider comes from a mirror folder where the machine has one, else by download (find_mirror says where it looks).
All work is done in a copy of terraform/, and nothing of it reaches AWS: whoever applies names an endpoint.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge_lab.locking import one_at_a_time
from terraform_missing import TerraformMissing

CHECKOUT = Path(__file__).resolve().parents[2]
MIRROR_VARIABLE = "JUDGE_BOOTSTRAP_TERRAFORM_MIRROR"
PROVIDER = "hashicorp/aws"
# Nothing listens there: a call that the test did not mean to make fails at once.
NOWHERE = "http://127.0.0.1:9"
_REGISTRIES = {"terraform": "registry.terraform.io", "tofu": "registry.opentofu.org"}
_MIRROR_IN_CONFIG = re.compile(r"filesystem_mirror\s*\{[^}]*?\bpath\s*=\s*\"([^\"]+)\"", re.DOTALL)
_INIT_SECONDS = 300
_RUN_SECONDS = 1800


@dataclass(frozen=True)
class Diagnostic:
    """An error or a warning, as `-json` gives it: not wrapped, not coloured."""

    severity: str
    summary: str
    detail: str
    address: str = ""


@dataclass(frozen=True)
class Answer:
    """How a command ended. `diagnostics` is filled by the commands that speak JSON."""

    code: int
    stdout: str
    stderr: str
    diagnostics: Sequence[Diagnostic] = ()

    @property
    def errors(self) -> list[str]:
        """The texts of its errors, each in one line: what stands in `error_message`, or the summary without one."""
        return [" ".join((item.detail or item.summary).split()) for item in self.diagnostics
                if item.severity == "error"]

    def must(self) -> Answer:
        """Return itself, unless the command failed."""
        assert self.code == 0, f"exit {self.code}\n{chr(10).join(self.errors)}\n{self.stderr}\n{self.stdout}"[:6000]
        return self


def find_program(path: str | None = None) -> Path:
    """Return the binary. Raises TerraformMissing."""
    for name in _REGISTRIES:
        found = shutil.which(name, path=path)
        if found:
            return Path(found)
    raise TerraformMissing("neither terraform nor tofu is on PATH")


def find_mirror(registry: str, environ: Mapping[str, str], home: Path, opt: Path = Path("/opt")) -> Path | None:
    """Return a folder that has the AWS provider for this machine, in the layout of a filesystem mirror.

    Looked for, in this order: the folder that JUDGE_BOOTSTRAP_TERRAFORM_MIRROR names; those of the CLI configuration
    (TF_CLI_CONFIG_FILE, ~/.terraformrc); Terraform's own implied mirrors; any folder directly below /opt.
    """
    candidates = [Path(environ[MIRROR_VARIABLE])] if environ.get(MIRROR_VARIABLE) else []
    config = find_config(environ, home)
    if config:
        candidates += [Path(path) for path in _MIRROR_IN_CONFIG.findall(config.read_text())]
    data = [environ.get("XDG_DATA_HOME") or str(home / ".local" / "share"),
            *(environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")]
    candidates += [home / ".terraform.d" / "plugins", *(Path(folder) / "terraform" / "plugins" for folder in data)]
    candidates += [folder.parent for folder in sorted(opt.glob(f"*/{registry}"))]
    return next((folder for folder in candidates if _has_provider(folder / registry / PROVIDER)), None)


def find_config(environ: Mapping[str, str], home: Path) -> Path | None:
    """Return the CLI configuration that is in force, if there is one."""
    path = Path(environ.get("TF_CLI_CONFIG_FILE") or home / ".terraformrc")
    return path if path.is_file() else None


def _has_provider(folder: Path) -> bool:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    target = f"{platform.system().lower()}_{machine}"
    names = (f"*/{target}/terraform-provider-*", f"terraform-provider-*_{target}.zip")
    return any(path for name in names for path in folder.glob(name))


@dataclass
class Terraform:
    """The program, with a folder of its own for whatever it writes."""

    program: Path
    home: Path
    mirror: Path | None
    cache: Path
    own_config: Path | None = None
    _ready: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Write the CLI configuration, and the copy of terraform/ that everything is done in."""
        self.config = self.own_config or self.home / "cli.tfrc"
        if self.mirror:
            self.config = self.home / "cli.tfrc"
            self.config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{self.mirror}"\n'
                                   "  }\n}\n")
        elif not self.own_config:
            self.config.write_text("")
        self.tree = self.home / "terraform"
        copy_tree(self.tree)

    # --- commands -----------------------------------------------------------------------------------------------------

    def run(self, module: Path, *words: str, seconds: int = _RUN_SECONDS, **environ: str) -> Answer:
        """Run a command in a module's folder, and return its end whatever it is."""
        done = subprocess.run([self.program, f"-chdir={module}", *words], env=self._environ(module) | environ,
                              text=True, capture_output=True, timeout=seconds, check=False, cwd=self.home)
        return Answer(done.returncode, done.stdout, done.stderr, _diagnostics(done.stdout))

    def init(self, module: Path) -> None:
        """Make a folder ready, once. Raises TerraformMissing when the provider can be had nowhere."""
        if module in self._ready:
            return
        # The provider is hashed where there is no lock yet; all modules use the same one.
        lock = self.home / ".terraform.lock.hcl"
        if lock.exists() and not (module / lock.name).exists():
            shutil.copy(lock, module / lock.name)
        try:
            answer = self.run(module, "init", "-no-color", "-input=false", "-backend=false", seconds=_INIT_SECONDS)
        except subprocess.TimeoutExpired as error:
            if self.mirror:
                raise
            raise TerraformMissing(f"the AWS provider did not arrive in {_INIT_SECONDS} s") from error
        if answer.code and not self.mirror and _is_download(answer.stderr):
            reason = next(line for line in answer.stderr.splitlines() if line.strip("╷│ "))
            raise TerraformMissing(f"no mirror folder has the AWS provider ({MIRROR_VARIABLE} names one), "
                                   f"and it cannot be downloaded: {reason.strip('│ ')}")
        answer.must()
        if not lock.exists() and (module / lock.name).exists():
            shutil.copy(module / lock.name, lock)
        self._ready.add(module)

    def validate(self, module: Path) -> Answer:
        """Check a module by itself."""
        self.init(module)
        answer = self.run(module, "validate", "-json")
        found = [_diagnostic(item) for item in json.loads(answer.stdout)["diagnostics"]]
        return Answer(answer.code, answer.stdout, answer.stderr, found)

    def plan(self, module: Path, variables: Mapping[str, Any] | None = None, *words: str, **environ: str) -> Answer:
        """Plan; the exit code is 2 when something would change."""
        self.init(module)
        return self.run(module, "plan", "-json", "-input=false", "-detailed-exitcode", *words,
                        *_var_file(module, variables), **environ)

    def planned(self, module: Path, variables: Mapping[str, Any] | None = None, **environ: str) -> dict[str, Any]:
        """Return the plan as `terraform show -json` gives it."""
        answer = self.plan(module, variables, "-out=plan.bin", **environ)
        assert answer.code in (0, 2), answer.must()
        found: dict[str, Any] = json.loads(self.run(module, "show", "-json", "plan.bin", **environ).must().stdout)
        return found

    def apply(self, module: Path, variables: Mapping[str, Any] | None = None, *words: str, **environ: str) -> Answer:
        """Make what the module says."""
        self.init(module)
        return self.run(module, "apply", "-json", "-input=false", "-auto-approve", *words,
                        *_var_file(module, variables), **environ)

    def destroy(self, module: Path, variables: Mapping[str, Any] | None = None, **environ: str) -> Answer:
        """Remove all that the state knows."""
        return self.apply(module, variables, "-destroy", **environ)

    def output(self, module: Path) -> dict[str, Any]:
        """Return what `terraform output -json` prints."""
        found: dict[str, Any] = json.loads(self.run(module, "output", "-json").must().stdout)
        return found

    def state(self, module: Path) -> list[str]:
        """Return the addresses of what the state knows."""
        return self.run(module, "state", "list").stdout.split()

    def test(self, module: Path, *words: str) -> Answer:
        """Run a module's own tests."""
        self.init(module)
        return self.run(module, "test", "-json", *words)

    def copy_of(self, module: str, name: str, only: Iterable[str] = ()) -> Path:
        """Return a folder beside `module` (a path in terraform/) with the same content, and a state of its own.

        `only` names the files that are wanted. Beside it, because relative sources of modules then lead where they did.
        """
        original = self.tree / module
        folder = original.parent / name
        shutil.copytree(original, folder, ignore=shutil.ignore_patterns("*.tfstate*", ".terraform*", "plan.bin"))
        if wanted := set(only):
            for path in folder.iterdir():
                if path.name not in wanted and path.is_file():
                    path.unlink()
        return folder

    # --- what it runs in ----------------------------------------------------------------------------------------------

    def _environ(self, module: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith(("AWS_", "TF_", "TOFU_", "JUDGE_BOOTSTRAP_"))}
        environ = kept | {
            "HOME": str(self.home),
            "TF_CLI_CONFIG_FILE": str(self.config),
            "TF_DATA_DIR": str(self.home / "data" / str(module.relative_to(self.home)).replace("/", "-")),
            "TF_IN_AUTOMATION": "1",
            "TF_REGISTRY_DISCOVERY_RETRY": "1",
            "CHECKPOINT_DISABLE": "1",
            "AWS_ENDPOINT_URL": NOWHERE,
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_ACCESS_KEY_ID": "judge-terraform",
            "AWS_SECRET_ACCESS_KEY": "judge-terraform",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        if not self.mirror:
            # Downloaded once, linked to from each module's folder.
            self.cache.mkdir(parents=True, exist_ok=True)
            environ["TF_PLUGIN_CACHE_DIR"] = str(self.cache)
            environ["TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE"] = "true"
        return environ


def find_terraform(home: Path) -> Terraform:
    """Return the program, with the provider got ready. Raises TerraformMissing when one of the two cannot be had."""
    program = find_program()
    user = Path.home()
    cache = Path(os.environ.get("JUDGE_BOOTSTRAP_CACHE") or user / ".cache" / "judge-bootstrap") / "terraform-plugins"
    mirror = find_mirror(_REGISTRIES[program.name], os.environ, user)
    terraform = Terraform(program, home, mirror, cache, find_config(os.environ, user))
    probe = home / "probe"
    probe.mkdir()
    shutil.copy(terraform.tree / "versions.tf", probe)
    # Two processes of pytest that fill the plugin cache at once spoil it (hashicorp/terraform#31964).
    with nullcontext() if mirror else one_at_a_time(cache):
        terraform.init(probe)
    return terraform


def copy_tree(target: Path) -> None:
    """Copy terraform/ without what a developer's own runs left there."""
    shutil.copytree(CHECKOUT / "terraform", target,
                    ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "*.tfvars", "*.tfvars.json"))


def _is_download(text: str) -> bool:
    return "Failed to query available provider packages" in text or "Failed to install provider" in text


def _var_file(module: Path, variables: Mapping[str, Any] | None) -> list[str]:
    if variables is None:
        return []
    path = module / "given.json"
    path.write_text(json.dumps(variables))
    return [f"-var-file={path.name}"]


def _diagnostics(stdout: str) -> list[Diagnostic]:
    found = []
    for line in stdout.splitlines():
        if not line.startswith("{"):
            continue
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item.get("diagnostic"), dict):
            found.append(_diagnostic(item["diagnostic"]))
    return found


def _diagnostic(item: Mapping[str, Any]) -> Diagnostic:
    return Diagnostic(item["severity"], item["summary"], item.get("detail") or "", item.get("address") or "")
