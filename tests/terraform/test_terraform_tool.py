"""Where the program and its provider are looked for, and what is said when there are none."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from terraform.tool import MIRROR_VARIABLE, Terraform, find_mirror, find_program
from terraform_missing import TerraformMissing

_REGISTRY = "registry.terraform.io"
_MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_TARGET = f"{platform.system().lower()}_{_MACHINE}"


def _mirror(folder: Path, name: str = f"5.100.0/{_TARGET}/terraform-provider-aws_v5.100.0_x5") -> Path:
    path = folder / _REGISTRY / "hashicorp" / "aws" / name
    path.parent.mkdir(parents=True)
    path.touch()
    return folder


def _find(tmp_path: Path, **environ: str) -> Path | None:
    return find_mirror(_REGISTRY, {"XDG_DATA_DIRS": str(tmp_path / "share")} | environ, tmp_path / "home",
                       tmp_path / "opt")


@pytest.mark.parametrize("place", ["home/.terraform.d/plugins", "home/.local/share/terraform/plugins",
                                   "share/terraform/plugins", "opt/anything"])
def test_a_mirror_is_found_where_terraform_itself_looks_and_below_opt(tmp_path: Path, place: str) -> None:
    assert _find(tmp_path) is None
    mirror = _mirror(tmp_path / place)
    assert _find(tmp_path) == mirror


def test_a_packed_provider_is_one_too(tmp_path: Path) -> None:
    mirror = _mirror(tmp_path / "opt" / "x", f"terraform-provider-aws_5.100.0_{_TARGET}.zip")
    assert _find(tmp_path) == mirror


def test_a_provider_for_another_machine_is_none(tmp_path: Path) -> None:
    _mirror(tmp_path / "opt" / "x", "5.100.0/plan9_mips/terraform-provider-aws_v5.100.0_x5")
    assert _find(tmp_path) is None


def test_the_variable_wins_over_the_cli_configuration_and_that_over_the_rest(tmp_path: Path) -> None:
    named, configured, implied = (_mirror(tmp_path / name) for name in ("named", "configured", "opt/implied"))
    config = tmp_path / "cli.tfrc"
    config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{configured}"\n  }}\n}}\n')
    assert _find(tmp_path) == implied
    assert _find(tmp_path, TF_CLI_CONFIG_FILE=str(config)) == configured
    assert _find(tmp_path, **{"TF_CLI_CONFIG_FILE": str(config), MIRROR_VARIABLE: str(named)}) == named


def test_a_cli_configuration_that_does_not_exist_says_nothing(tmp_path: Path) -> None:
    assert _find(tmp_path, TF_CLI_CONFIG_FILE=str(tmp_path / "none")) is None


def test_without_the_program_it_is_said_that_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TerraformMissing, match="neither terraform nor tofu is on PATH"):
        find_program(str(tmp_path))


def test_without_a_way_to_the_provider_the_variable_and_the_reason_are_said(
        terraform: Terraform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    config = tmp_path / "cli.tfrc"
    config.write_text("")
    cut = Terraform(terraform.program, tmp_path, None, tmp_path / "cache", config)
    with pytest.raises(TerraformMissing, match=f"{MIRROR_VARIABLE} names one.*cannot be downloaded: .*provider"):
        cut.init(cut.tree)


def test_a_module_that_is_wrong_fails_and_does_not_skip(terraform: Terraform, tmp_path: Path) -> None:
    folder = terraform.home / "wrong"
    folder.mkdir()
    (folder / "main.tf").write_text('terraform {\n  required_version = ">= 99"\n}\n')
    with pytest.raises(AssertionError, match="exit 1"):
        terraform.init(folder)
