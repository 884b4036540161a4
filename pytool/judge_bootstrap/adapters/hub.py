"""The Hugging Face Hub, or a mirror that speaks its API: the controller asks it which files make a model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_bootstrap.adapters.lock_file import load_lock_of, place_of
from judge_bootstrap.core.errors import BootstrapError, UsageProblem
from judge_bootstrap.core.model_manifest import (
    CONFIG_FILES,
    ListedFile,
    build_manifest,
    check_content,
    declared_quantization,
    read_config,
    sealed,
)

TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class ResolvedModel:
    """A model at one commit: the manifest that nodes get, which carries its own digest."""

    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """sha256 (hex) of the manifest's canonical form."""
        return str(self.manifest["digest"])

    @property
    def quantization(self) -> str | None:
        """What config.json declares as quant_method."""
        return self.manifest.get("quantization")


def model_of(repo_id: str, revision: str, endpoint: str, *, lock_file: str | None, inventory_dir: str | Path | None,
             allow_auto_map: bool = False) -> ResolvedModel:
    """Return the model that the settings name: out of the lock file where there is one, else from the Hub.

    Raises BootstrapError as resolve_model, or for a lock file that is missing, edited or of another model.
    """
    if lock_file and inventory_dir:
        return ResolvedModel(load_lock_of(place_of(lock_file, Path(inventory_dir)), repo_id, revision))
    return resolve_model(repo_id, revision, endpoint, allow_auto_map=allow_auto_map)


def resolve_model(repo_id: str, revision: str, endpoint: str, *, allow_auto_map: bool = False) -> ResolvedModel:
    """Ask the Hub once for the commit of `revision` and the files there, and read its configuration.

    A token, for a gated repository, is the controller's own (HF_TOKEN or `hf auth login`); it is never passed on.
    Raises BootstrapError with SOURCE_DENIED, SOURCE_RATE_LIMITED, SOURCE_UNREACHABLE, SOURCE_NOT_FOUND, FILE_FORBIDDEN
    or INTEGRITY_MISMATCH. What lies in the user's own cache never counts: an answer is the Hub's, or there is none.
    """
    from huggingface_hub import HfApi  # lazy: 0.3 s that most commands do not need

    if not endpoint:
        raise UsageProblem("model_cache_hub_endpoint is empty, and only the Hub can say what a revision is",
                           hint="set model_cache_lock_file to a manifest that `judge-bootstrap models lock` wrote")
    api = HfApi(endpoint=endpoint, library_name="judge-bootstrap")
    info = _ask(lambda: api.model_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS),
                repo_id, revision, endpoint)
    listing = [_listed(sibling) for sibling in info.siblings or []]
    manifest = build_manifest(repo_id, revision, str(info.sha), listing)
    configs: dict[str, dict[str, Any]] = {}
    # A private cache: the user's own may hold a config.json that somebody has edited.
    with tempfile.TemporaryDirectory(prefix="judge-manifest.") as cache:
        for name in CONFIG_FILES:
            file = next((f for f in listing if f.path == name), None)
            if file is None:
                continue

            def download(name: str = name) -> str:
                return str(api.hf_hub_download(repo_id, name, revision=info.sha, cache_dir=cache))

            content = Path(_ask(download, repo_id, revision, endpoint)).read_bytes()
            check_content(file, content)
            configs[name] = read_config(repo_id, name, content, allow_auto_map=allow_auto_map)
    return ResolvedModel(sealed(manifest, declared_quantization(configs["config.json"])))


def hub_token() -> str | None:
    """Return the controller's own token: HF_TOKEN, or that of `hf auth login`."""
    from huggingface_hub import get_token

    return get_token()


def _listed(sibling: Any) -> ListedFile:
    # For a file in LFS, blob_id is the hash of the pointer, not of the file.
    lfs = sibling.lfs
    return ListedFile(path=sibling.rfilename, size=sibling.size, sha256=lfs.sha256 if lfs else None,
                      blob_sha1=None if lfs else sibling.blob_id)


def _ask(call: Callable[[], Any], repo_id: str, revision: str, endpoint: str) -> Any:
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return call()
    except GatedRepoError as error:
        raise BootstrapError(f"{repo_id} is gated and this token has no access to it", reason="SOURCE_DENIED",
                             hint=f"accept its terms at {endpoint}/{repo_id}, then: hf auth login") from error
    except RevisionNotFoundError as error:
        raise BootstrapError(f"{repo_id} has no revision {revision!r}", reason="SOURCE_NOT_FOUND",
                             hint="set model.revision to one that it has, such as -e model.revision=main") from error
    except RepositoryNotFoundError as error:
        raise BootstrapError(f"{endpoint} knows no model {repo_id}, or it is private", reason="SOURCE_NOT_FOUND",
                             hint="correct model.id, or set HF_TOKEN for a private model") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        known = {401: "SOURCE_DENIED", 403: "SOURCE_DENIED", 429: "SOURCE_RATE_LIMITED"}
        reason = known.get(status or 0, "SOURCE_UNREACHABLE")
        denied = reason == "SOURCE_DENIED"
        raise BootstrapError(f"{endpoint} answered {status} for {repo_id}", reason=reason,
                             hint="hf auth whoami   # is the token valid, and may it read the model?" if denied else
                             "run again later, or set model_cache_hub_endpoint to a mirror") from error
    except Exception as error:  # the client's transport library has changed twice: its error types are no contract
        raise BootstrapError(f"{endpoint} could not be asked for {repo_id}: {type(error).__name__}: {error}",
                             reason="SOURCE_UNREACHABLE",
                             hint=f"check that this machine reaches it: curl -I {endpoint}") from error
