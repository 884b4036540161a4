"""The S3 mirror: a model's blobs, put there once, so that a fleet of any size costs the Hub one fetch.

    PREFIX/{repo_id}/blobs/{blob}              named as in a node's store
    PREFIX/{repo_id}/manifests/{commit}.json   the manifest, written last: it says that all of its blobs are there

A key never shows wrong bytes. A small file is hashed before it is put; a big one goes up in parts while it comes from
the Hub, and its key exists only once the upload is completed, which is done when the hash of the whole is right.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_node.cache.failures import Retry, Stopped, Transient
from judge_node.cache.hashing import Hasher
from judge_node.cache.http import Connections
from judge_node.cache.manifest import File, Manifest
from judge_node.cache.sources import Source, make_sources
from judge_node.result import NodeError, foreign

from judge_bootstrap.adapters.runner import Interrupt
from judge_bootstrap.core.errors import BootstrapError, ExitCode, UsageProblem
from judge_bootstrap.core.model_lock import lock_text

# S3 takes parts of at least 5 MiB and at most 10,000 of them; each worker holds two in memory.
PART_BYTES = 32 << 20
_MOST_PARTS = 9_000
_WORKERS = 4
_ATTEMPTS_WITH_WRONG_BYTES = 2
_TICK_SECONDS = 0.2
_READ_BYTES = 1 << 20
_TARGET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9][A-Za-z0-9._=-]*)*)/?", re.ASCII)


@dataclass(frozen=True)
class Target:
    """A place in S3. `prefix` has no slash at either end, and may be empty."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def blob_key(self, repo_id: str, blob: str) -> str:
        """Return where a blob's bytes lie."""
        return "/".join(filter(None, (self.prefix, repo_id, "blobs", blob)))

    def manifest_key(self, repo_id: str, commit: str) -> str:
        """Return where the manifest of a commit lies."""
        return "/".join(filter(None, (self.prefix, repo_id, "manifests", f"{commit}.json")))


def parse_target(text: str) -> Target:
    """Return the place that `s3://BUCKET/PREFIX` names. Raises UsageProblem."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise UsageProblem(f"found the mirror {text!a}, wanted s3://BUCKET/PREFIX",
                           hint="give --to s3://BUCKET/PREFIX, or set model_cache_mirror")
    return Target(found[1], found[2].strip("/"))


def s3_client(region: str) -> Any:
    """Return an S3 client of boto3, with the credentials that it finds."""
    import boto3
    from botocore.config import Config

    limits = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 5},
                    max_pool_connections=4 * _WORKERS)
    return boto3.session.Session().client("s3", region_name=region, config=limits)


class Uploads:
    """The uploads in parts that are under way, as a file: what a killed run left is ended by the next one.

    S3 keeps the parts of an upload that nobody ends, and charges for them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()

    def all(self) -> list[dict[str, str]]:
        """Return what is under way: each with Bucket, Key and UploadId. A file that is damaged names none."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return [{name: str(one[name]) for name in ("Bucket", "Key", "UploadId")} for one in found]
        except (OSError, ValueError, TypeError, KeyError):
            return []

    def add(self, upload: Mapping[str, str]) -> None:
        """Note one, before its first part."""
        with self._mutex:
            self._write([*self.all(), dict(upload)])

    def remove(self, upload: Mapping[str, str]) -> None:
        """Forget one that has ended."""
        with self._mutex:
            self._write([one for one in self.all() if one != dict(upload)])

    def _write(self, found: list[dict[str, str]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        staged = self._path.with_suffix(".tmp")
        staged.write_text(json.dumps(found), encoding="utf-8")
        staged.replace(self._path)


@dataclass(frozen=True)
class Missing:
    """What the mirror lacks of a model: blobs (one file for each), and whether its manifest is not there yet."""

    files: tuple[File, ...]
    manifest: bool

    @property
    def size(self) -> int:
        """Bytes to bring."""
        return sum(file.size for file in self.files)


class Mirror:
    """One model's place in the mirror."""

    def __init__(self, s3: Any, target: Target, manifest: Manifest, uploads: Uploads) -> None:
        self._s3, self.target, self._manifest, self._uploads = s3, target, manifest, uploads
        self._text = lock_text({**manifest.as_dict(), "digest": manifest.digest})

    def source_url(self) -> str:
        """Return what model_cache_sources wants, for nodes that read the bucket by plain HTTPS."""
        scheme, _, host = self._s3.meta.endpoint_url.partition("://")
        # A name with a dot in it, before amazonaws.com, is in no certificate; other servers know no such names at all.
        with_name = host.endswith("amazonaws.com") and "." not in self.target.bucket
        base = f"{self.target.bucket}.{host}" if with_name else f"{host}/{self.target.bucket}"
        return f"{scheme}://{base}/{self.target.prefix}".rstrip("/")

    def missing(self) -> Missing:
        """Ask S3 what is there; a blob counts with the right size and the hash that its upload was checked against.

        Raises BootstrapError (MIRROR_FAILED).
        """
        with self._failing_with_words():
            self._s3.head_bucket(Bucket=self.target.bucket)
            files = list(self._manifest.blobs().values())
            with ThreadPoolExecutor(_WORKERS) as pool:
                there = list(pool.map(self._has, files))
            return Missing(tuple(file for file, found in zip(files, there, strict=True) if not found),
                           not self._has_manifest())

    def _has(self, file: File) -> bool:
        from botocore.exceptions import ClientError

        try:
            head = self._s3.head_object(**self._place(file))
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return False
            raise
        proven: bool = _proof(file).items() <= head.get("Metadata", {}).items()
        return proven and head["ContentLength"] == file.size

    def _has_manifest(self) -> bool:
        from botocore.exceptions import ClientError

        try:
            found = self._s3.get_object(Bucket=self.target.bucket, Key=self._manifest_key())["Body"].read()
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return False
            raise
        there: bool = found == self._text.encode()
        return there

    def _place(self, file: File) -> dict[str, str]:
        return {"Bucket": self.target.bucket, "Key": self.target.blob_key(self._manifest.repo_id, file.blob)}

    def _manifest_key(self) -> str:
        return self.target.manifest_key(self._manifest.repo_id, self._manifest.commit)

    def clean(self) -> int:
        """End what killed runs left half uploaded; return how many. The caller holds the mirror's lock."""
        from botocore.exceptions import ClientError

        left = self._uploads.all()
        with self._failing_with_words():
            for upload in left:
                with suppress(ClientError):  # it is gone: ended by hand, or by the bucket's lifecycle
                    self._s3.abort_multipart_upload(**upload)
                self._uploads.remove(upload)
        return len(left)

    def fill(self, missing: Missing, endpoint: str, token: str | None, *, retry: Retry | None = None,
             on_progress: Callable[[dict[str, Any]], None] = lambda _: None) -> int:
        """Bring what is missing, then the manifest; return the bytes that the Hub was asked for.

        Raises BootstrapError: what the Hub gave (SOURCE_*, INTEGRITY_MISMATCH), S3 (MIRROR_FAILED), or Ctrl-C. What is
        complete in the mirror stays for the next run; of the rest nothing is left.
        """
        try:
            (source,) = make_sources((), endpoint, token) if missing.files else (None,)
            work = _Filling(self._s3, self._manifest, self._place, self._uploads, source, retry or Retry())
            with self._failing_with_words():
                work.run(missing.files, on_progress)
                if missing.files or missing.manifest:
                    self._s3.put_object(Bucket=self.target.bucket, Key=self._manifest_key(), Body=self._text.encode(),
                                        ContentType="application/json")
        except NodeError as error:
            raise BootstrapError(error.message, reason=error.reason,
                                 hint="run it again: what is in the mirror already is kept") from error
        return work.fetched_bytes

    @contextmanager
    def _failing_with_words(self) -> Iterator[None]:
        """Turn what boto3 raises into one line."""
        from judge_bootstrap.adapters.aws import call_errors

        try:
            yield
        except (BootstrapError, NodeError):
            raise
        except call_errors() as error:
            raise BootstrapError(
                f"{self.target} cannot be used: {foreign(error)}", reason="MIRROR_FAILED",
                hint="it needs s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:AbortMultipartUpload "
                f"below the prefix; check: aws sts get-caller-identity; aws s3 ls {self.target}/") from error


class _Interrupted(BootstrapError):
    exit_code = ExitCode.INTERRUPTED


class _Filling:
    """One run of fill(): several files at a time, each read in order and hashed as it comes."""

    def __init__(self, s3: Any, manifest: Manifest, place: Callable[[File], dict[str, str]], uploads: Uploads,
                 source: Source | None, retry: Retry) -> None:
        self._s3, self._manifest, self._place, self._uploads = s3, manifest, place, uploads
        self._source, self._retry = source, retry
        self._connections: list[Connections] = []
        self._mutex = threading.Lock()
        self.fetched_bytes = 0
        self._done_bytes = 0
        self._done_files = 0

    def run(self, files: tuple[File, ...], on_progress: Callable[[dict[str, Any]], None]) -> None:
        """Bring all files; raises the first failure, after every other upload has been ended."""
        started, total = time.monotonic(), sum(file.size for file in files)
        with Interrupt().listening() as interrupt, ThreadPoolExecutor(_WORKERS) as pool:
            # The big ones first: what is left at the end is small.
            futures = [pool.submit(self._bring, file) for file in sorted(files, key=lambda file: -file.size)]
            pending: set[Future[None]] = set(futures)
            while pending:
                done, pending = wait(pending, timeout=_TICK_SECONDS)
                if interrupt.count or any(future.exception() for future in done):
                    self._stop()
                on_progress(self._progress(len(files), total, time.monotonic() - started))
        failures = [error for error in (future.exception() for future in futures) if error is not None]
        first = next((error for error in failures if not isinstance(error, Stopped)), None)
        if first is not None:
            raise first
        if failures:
            raise _Interrupted("interrupted; no half-uploaded file is left, and what is complete stays",
                               reason="INTERRUPTED", hint="run the same command again: it does only what is left")

    def _stop(self) -> None:
        self._retry.stop.set()
        with self._mutex:
            for connections in self._connections:
                connections.interrupt()

    def _progress(self, files: int, total: int, seconds: float) -> dict[str, Any]:
        with self._mutex:
            speed = self._done_bytes / max(seconds, 0.001)
            return {"files_done": self._done_files, "files": files, "bytes_done": self._done_bytes, "bytes": total,
                    "fetched_bytes": self.fetched_bytes, "bytes_per_second": round(speed), "limited_by": None,
                    "elapsed_seconds": round(seconds, 1),
                    "eta_seconds": round((total - self._done_bytes) / speed, 1) if speed > 0 else None}

    def _bring(self, file: File) -> None:
        if self._retry.stop.is_set():
            raise Stopped
        connections = Connections(self._retry.timeout_seconds)
        with self._mutex:
            self._connections.append(connections)
        try:
            for attempt in range(1, _ATTEMPTS_WITH_WRONG_BYTES + 1):
                if self._upload(connections, file):
                    with self._mutex:
                        self._done_files += 1
                    return
                with self._mutex:
                    self._done_bytes -= file.size
                if attempt == _ATTEMPTS_WITH_WRONG_BYTES:
                    assert self._source is not None
                    raise NodeError(f"{file.path} from {self._source.name} is not what the manifest names, {attempt} "
                                    "times; it is not in the mirror", reason="INTEGRITY_MISMATCH")
        finally:
            connections.close()

    def _upload(self, connections: Connections, file: File) -> bool:
        """Bring one file; return whether its bytes were right. When not, there is nothing of it in the mirror."""
        hasher, reader = Hasher(file), _Reader(self, connections, file)
        if file.size <= PART_BYTES:
            content = reader.read(file.size, hasher)
            if not hasher.agrees():
                return False
            self._s3.put_object(**self._place(file), Body=content, Metadata=_proof(file),
                                ChecksumSHA256=_sha256(content))
            return True
        upload = self._begin(file)
        try:
            parts = self._send(upload, file, reader, hasher)
            if hasher.agrees():
                self._s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
                self._uploads.remove(upload)
                return True
        except BaseException:
            self._abort(upload)
            raise
        self._abort(upload)
        return False

    def _begin(self, file: File) -> dict[str, str]:
        place = self._place(file)
        begun = self._s3.create_multipart_upload(**place, Metadata=_proof(file), ChecksumAlgorithm="SHA256")
        upload = {**place, "UploadId": str(begun["UploadId"])}
        self._uploads.add(upload)
        return upload

    def _abort(self, upload: dict[str, str]) -> None:
        from judge_bootstrap.adapters.aws import call_errors

        # What cannot be ended now stays noted, and the next run ends it: why we are here is what has to be told.
        with suppress(*call_errors()):
            self._s3.abort_multipart_upload(**upload)
            self._uploads.remove(upload)

    def _send(self, upload: dict[str, str], file: File, reader: _Reader, hasher: Hasher) -> list[dict[str, Any]]:
        """Send all parts: one is on its way to S3 while the next one comes from the Hub."""
        part_bytes = max(PART_BYTES, -(-file.size // _MOST_PARTS))
        parts: list[dict[str, Any]] = []
        with ThreadPoolExecutor(1) as pool:
            before: Future[dict[str, Any]] | None = None
            for number, start in enumerate(range(0, file.size, part_bytes), start=1):
                content = reader.read(min(part_bytes, file.size - start), hasher)
                if before is not None:
                    parts.append(before.result())
                before = pool.submit(self._part, upload, number, content)
            assert before is not None
            parts.append(before.result())
        return parts

    def _part(self, upload: dict[str, str], number: int, content: bytearray) -> dict[str, Any]:
        checksum = _sha256(content)
        sent = self._s3.upload_part(**upload, PartNumber=number, Body=content, ChecksumSHA256=checksum)
        return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum}

    def take(self, connections: Connections, file: File, position: int, buffer: memoryview) -> int:
        """Read from byte `position` until the buffer is full or the source fails; return how much came.

        Raises Transient when nothing came, NodeError when no other attempt would help.
        """
        assert self._source is not None
        self._source.pause(self._retry)
        body = self._source.open(connections, self._manifest, file, position, position + len(buffer))
        count, at = 0, body.start
        try:
            while count < len(buffer):
                if self._retry.stop.is_set():
                    raise Stopped
                if at < position:  # a source that knows no ranges begins anew
                    skipped = memoryview(bytearray(min(_READ_BYTES, position - at)))
                    got = body.readinto(skipped)
                else:
                    got = body.readinto(buffer[count:count + _READ_BYTES])
                    count += got
                    with self._mutex:
                        self._done_bytes += got
                at += got
                with self._mutex:
                    self.fetched_bytes += got
                if not got:
                    raise Transient(f"{body.name} ended at byte {at} of {file.size}")
        except Transient:
            if not count:
                raise
        finally:
            body.close(whole=at == body.end)
        return count

    def wait(self, problem: Transient, failures: int) -> None:
        """Wait before another attempt. Raises NodeError when there have been enough."""
        if self._retry.stop.is_set():
            raise Stopped
        self._retry.wait(self._retry.after(problem, failures))


class _Reader:
    """The bytes of one file in order, whatever the source does in between."""

    def __init__(self, filling: _Filling, connections: Connections, file: File) -> None:
        self._filling, self._connections, self._file = filling, connections, file
        self._position = 0

    def read(self, size: int, hasher: Hasher) -> bytearray:
        """Return the next `size` bytes, hashed. Raises NodeError or Stopped."""
        content = bytearray(size)
        view, count, failures = memoryview(content), 0, 0
        while count < size:
            try:
                got = self._filling.take(self._connections, self._file, self._position + count, view[count:])
                hasher.update(view[count:count + got])
                count, failures = count + got, 0
            except Transient as problem:
                failures += 1
                self._filling.wait(problem, failures)
        self._position += size
        return content


def _proof(file: File) -> dict[str, str]:
    """Return an object's metadata: the hash that its bytes were checked against before the key came to be."""
    found = {"sha256": file.sha256, "blob-sha1": file.blob_sha1}
    return {name: value for name, value in found.items() if value is not None}


def _sha256(content: bytearray) -> str:
    """Return the checksum in S3's form: S3 compares it with what arrives."""
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
