"""Put the Ansible collections of requirements.yml into .collections, out of the PyPI `ansible` wheel.

Galaxy is out of reach in many companies and CI systems, PyPI hardly ever; and installing the whole `ansible` package
costs 550 MB where these collections are 6. requirements.yml stays the only list of names and versions: its comment
`# ansible wheel: X.Y.Z` names the wheel that carries exactly those, and this script refuses one that does not.

Not called collections.py: a script's own folder comes first on sys.path, and would hide the standard library's module.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".complete"


def cache_dir() -> Path:
    """Where the 54 MB wheel is kept, so that a second checkout needs no download."""
    return Path(os.environ.get("JUDGE_BOOTSTRAP_CACHE") or Path.home() / ".cache" / "judge-bootstrap") / "wheels"


def read_requirements(path: Path) -> tuple[str, dict[str, str]]:
    """Return the version of the `ansible` wheel and {collection: version}. Raises SystemExit on a file without them."""
    text = path.read_text(encoding="utf-8")
    wheel = re.search(r"^# ansible wheel: (\S+)$", text, re.MULTILINE)
    if not wheel:
        raise SystemExit(f"{path}: no line '# ansible wheel: X.Y.Z'; add the ansible release with these versions")
    wanted = {item["name"]: str(item["version"]) for item in yaml.safe_load(text)["collections"]}
    return wheel[1], wanted


def download(version: str, cache: Path) -> Path:
    """Return the wheel's path in `cache`, fetched with pip if it is not there yet. Raises SystemExit if pip fails."""
    cache.mkdir(parents=True, exist_ok=True)
    wheel = cache / f"ansible-{version}-py3-none-any.whl"
    if not wheel.exists():
        with tempfile.TemporaryDirectory(dir=cache) as staging:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                       "--dest", staging, f"ansible=={version}"]
            if subprocess.run(command, check=False).returncode != 0:
                raise SystemExit(f"pip could not download ansible=={version}. Where Galaxy can be reached instead: "
                                 "ansible-galaxy collection install -r requirements.yml -p .collections")
            Path(staging, wheel.name).replace(wheel)
    return wheel


def extract(wheel: Path, wanted: dict[str, str], target: Path) -> None:
    """Unpack the wanted collections into `target`/ansible_collections. Raises SystemExit when a version differs."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for collection, version in wanted.items():
            prefix = f"ansible_collections/{collection.replace('.', '/')}/"
            manifest = prefix + "MANIFEST.json"
            if manifest not in names:
                raise SystemExit(f"{wheel.name} has no collection {collection}; correct requirements.yml")
            found = json.loads(archive.read(manifest))["collection_info"]["version"]
            if found != version:
                raise SystemExit(f"{wheel.name} has {collection} {found}, requirements.yml wants {version}; "
                                 "make the two agree")
            wanted_names = [n for n in names if n.startswith(prefix) and not n.startswith(prefix + "tests/")]
            archive.extractall(target, wanted_names)


def ensure(requirements: Path, target: Path) -> bool:
    """Make `target` hold exactly the required collections; return whether anything had to be done."""
    version, wanted = read_requirements(requirements)
    identity = hashlib.sha256(json.dumps([version, wanted], sort_keys=True).encode()).hexdigest()
    stamp = target / STAMP
    if stamp.is_file() and stamp.read_text(encoding="utf-8").strip() == identity:
        return False
    wheel = download(version, cache_dir())
    staging = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        extract(wheel, wanted, staging)
        # Without bytecode every run of ansible-inventory compiles boto's callers again: 2.2 s instead of 1.0 s.
        compileall.compile_dir(staging, quiet=2, stripdir=str(staging), prependdir=str(target))
        (staging / STAMP).write_text(identity + "\n", encoding="utf-8")
        staging.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Put requirements.yml's collections into .collections, from PyPI.")
    parser.add_argument("--requirements", type=Path, default=ROOT / "requirements.yml")
    parser.add_argument("--target", type=Path, default=ROOT / ".collections", help="default: %(default)s")
    options = parser.parse_args()
    done = ensure(options.requirements, options.target)
    sys.stdout.write(f"{options.target}: {'collections unpacked' if done else 'already complete'}\n")


if __name__ == "__main__":
    main()
