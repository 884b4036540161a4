"""Secrets are taken out of text; what only looks like one at first sight stays."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import pytest
from judge_bootstrap.core.redact import Redactor, is_secret_name, secrets_of

SECRET = "aB3/cD4+eF5=gH6ijk"


@pytest.mark.parametrize("form", [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()])
def test_a_known_secret_is_masked_in_each_of_its_forms(form: str) -> None:
    assert Redactor([SECRET]).clean(f"before {form} after") == "before *** after"


@pytest.mark.parametrize("text", [
    "hf_abcdefghijklmnopqrstuvwxyz012345",
    "https://x/y?X-Amz-Signature=0123456789abcdef0123",
    "Authorization: Bearer something"])
def test_what_has_the_shape_of_a_secret_is_masked_though_unknown(text: str) -> None:
    cleaned = Redactor([]).clean(text)
    assert cleaned.endswith("***") and cleaned != text


def test_short_values_are_not_masked_for_they_would_mask_words() -> None:
    assert Redactor(["test"]).clean("a test") == "a test"


@pytest.mark.parametrize("name", ["hf_token", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "db_password",
                                  "vllm_api_key", "client_secret", "passphrase", "ansible_ssh_pass",
                                  "ansible_become_pass"])
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["model_cache_token_file", "vllm_k8s_hf_secret_name", "HF_TOKEN_PATH", "max_tokens",
                                  "tokenizer", "bypass", "AWS_ACCESS_KEY_ID", "model.id", "secret_arn"])
def test_names_that_only_refer_to_a_secret_are_not(name: str) -> None:
    assert not is_secret_name(name)


def test_secrets_are_found_in_variables_and_in_token_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    found = secrets_of({"HF_TOKEN": "from-a-variable", "HF_HOME": str(tmp_path), "EDITOR": "vi"})
    assert found == {"from-a-variable", "from-a-file"}


@pytest.mark.parametrize(("text", "printed"), [
    ("\x1b[2Jgone", r"\x1b[2Jgone"), ("a\rb", r"a\rb"), ("\x07\x9b1m", r"\x07\x9b1m"),
    ("\u202eevil", r"\u202eevil"), ("\udcff", r"\udcff"), ("two\r\nlines\tand é", "two\nlines\tand é")])
def test_signs_that_a_terminal_obeys_are_shown_instead(text: str, printed: str) -> None:
    assert Redactor([]).clean(text) == printed
