"""R8: AppConfig down, denied, slow, empty or invalid. Nothing invalid is ever applied; the last good copy stands in.

Real boto3 asks the lab's AppConfig stand-in. Each trial fetches a valid document, breaks the service or its document,
loads the settings again some hours later, mends it, and loads once more.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pytool"))

from figures import Figure, report, small
from invalid_documents import invalid_document, valid_document
from judge_bootstrap.adapters import config, places
from judge_bootstrap.adapters.appconfig import AwsAppConfig
from judge_bootstrap.adapters.state import state_dir
from judge_bootstrap.core.environment import AppConfigRef, Environment
from judge_bootstrap.core.errors import UsageProblem
from judge_bootstrap.core.layers import flatten
from judge_lab.appconfig import AppConfigServer

FAULTS = ("down", "denied", "throttled", "slow", "empty", "invalid")
SEED = 8
HOUR = 3600


@dataclass
class Tally:
    """What was counted over all trials."""

    trials: Counter[str] = field(default_factory=Counter)
    applied: int = 0
    served: int = 0
    recovered: int = 0
    refused_in_production: int = 0
    asked_in_production: int = 0
    slowest_seconds: float = 0.0
    shortfalls: list[str] = field(default_factory=list)


class Site:
    """An AppConfig service that can be broken, and an environment that reads it."""

    def __init__(self, folder: Path, server: AppConfigServer, document: Path) -> None:
        self.folder, self.server, self.document = folder, server, document
        self.fault_file = document.with_name(document.name + ".fault")
        self.now = 1_000_000.0

    def environment(self, *, production: bool = False) -> Environment:
        root = places.inventory_roots()[-1] / "staging"
        ref = AppConfigRef(application="judge-bootstrap", environment="staging", profile="judge-inference")
        return Environment(name="r8", inventory_dir=root, production=production, region="us-east-1", appconfig=ref)

    def break_with(self, fault: str | None, body: bytes | None = None) -> None:
        self.fault_file.unlink(missing_ok=True)
        if body is not None:
            self.document.write_bytes(body)
        if fault is not None:
            self.fault_file.write_text(fault)

    def load(self, *, production: bool = False) -> config.Loaded:
        return config.load(self.environment(production=production), environ={}, source=AwsAppConfig,
                           now=lambda: self.now)

    def copy(self) -> Path:
        return state_dir("r8") / "appconfig.json"


def trial(site: Site, tally: Tally, kind: str, chance: random.Random, fault: str | None, broken: bytes | None) -> None:
    """One bad day: good, broken, good again."""
    tally.trials[kind] += 1
    good, good_again = valid_document(chance), valid_document(chance)
    site.copy().unlink(missing_ok=True)
    site.break_with(None, json.dumps(good).encode())
    first = site.load()
    assert first.appconfig.status == "live", first.settings.warnings
    kept = site.copy().read_bytes()

    age_hours = chance.randint(2, 40)
    site.now += age_hours * HOUR
    site.break_with(fault, broken)
    started = time.monotonic()
    second = site.load()
    tally.slowest_seconds = max(tally.slowest_seconds, time.monotonic() - started)
    applied = {path: item.value for path, item in second.settings.values.items() if item.source.layer == "appconfig"}
    if applied != flatten(good) or site.copy().read_bytes() != kept:
        tally.applied += 1
        tally.shortfalls.append(f"{kind}: {broken!r} gave {applied}")
    warned = any(f"version {first.appconfig.version}, " in line and "old" in line for line in second.settings.warnings)
    if (second.appconfig.status, second.appconfig.age_seconds, warned) == ("last good", age_hours * HOUR, True):
        tally.served += 1
    else:
        tally.shortfalls.append(f"{kind}: {second.appconfig}")

    # With no copy a production run stops, and any other goes on with nothing from AppConfig.
    site.copy().unlink()
    bare = site.load()
    if bare.appconfig.values or site.copy().exists():
        tally.applied += 1
        tally.shortfalls.append(f"{kind} without a copy: {broken!r} gave {dict(bare.appconfig.values)}")
    tally.asked_in_production += 1
    try:
        site.load(production=True)
    except UsageProblem:
        tally.refused_in_production += 1

    site.break_with(None, json.dumps(good_again).encode())
    third = site.load()
    live = {path: item.value for path, item in third.appconfig.values.items()}
    tally.recovered += third.appconfig.status == "live" and live == flatten(good_again)


@contextmanager
def running_site() -> Iterator[Site]:
    """Start the service, and keep state and credentials of this machine out of it."""
    with tempfile.TemporaryDirectory(prefix="judge-r8-") as name:
        folder = Path(name)
        document = folder / "document.json"
        document.write_text(json.dumps({"judge_inference": {}}))
        with AppConfigServer(document, environment="staging", slow_seconds=3.5) as server:
            os.environ.update({
                "JUDGE_BOOTSTRAP_STATE": str(folder / "state"), "AWS_ENDPOINT_URL_APPCONFIGDATA": server.url,
                "AWS_ACCESS_KEY_ID": "r8", "AWS_SECRET_ACCESS_KEY": "any-secret-will-do",
                "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "NO_PROXY": "127.0.0.1"})
            yield Site(folder, server, document)


def main() -> int:
    per_fault, invalid = (1, 20) if small() else (5, 300)
    chance = random.Random(SEED)
    tally = Tally()
    with running_site() as site:
        for fault in FAULTS:
            for _ in range(per_fault):
                trial(site, tally, fault, chance, fault, None)
        for _ in range(invalid):
            kind, body = invalid_document(chance)
            trial(site, tally, f"document: {kind}", chance, None, body)
    total = sum(tally.trials.values())
    detail: dict[str, Any] = {"trials": total, "kinds": dict(sorted(tally.trials.items())), "seed": SEED,
                              "slowest_s": round(tally.slowest_seconds, 2)}
    for line in tally.shortfalls[:10]:
        sys.stderr.write(line + "\n")
    return report(
        Figure("R8", tally.applied, "== 0", {"what": "invalid documents applied, in part or kept as a copy", **detail}),
        Figure("R8", 100 * tally.served / total, ">= 100 %",
               {"what": "last good copy served, with its age", "trials": total}),
        Figure("R8", 100 * tally.recovered / total, ">= 100 %", {"what": "live again once mended", "trials": total}),
        Figure("R8", 100 * tally.refused_in_production / tally.asked_in_production, ">= 100 %",
               {"what": "production runs refused with no copy", "trials": tally.asked_in_production}))


if __name__ == "__main__":
    sys.exit(main())
