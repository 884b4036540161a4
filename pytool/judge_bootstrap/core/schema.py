"""The shape of the AppConfig document, and for every setting the one role variable that carries it.

No default stands here: `roles/<role>/defaults/main.yml` has the only one (DESIGN.md section 4).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from judge_bootstrap.core import rules

ROOT = "judge_inference"
ENV_PREFIX = "JUDGE_BOOTSTRAP_"


@dataclass(frozen=True)
class Variable:
    """The role variable that carries a setting into the playbooks."""

    role: str
    name: str


class Section(BaseModel):
    """Base of every part of the document: no unknown key, no silent conversion, no change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelSettings(Section):
    """Which model judges, and how vLLM loads it."""

    id: Annotated[rules.RepoId, Variable("model_cache", "model_cache_repo_id")] = Field(
        description="Hub repository of the judge model.")
    revision: Annotated[rules.Revision, Variable("model_cache", "model_cache_revision")] = Field(
        description="Commit, branch or tag. A branch is resolved to one commit as a run starts; a commit pins it.")
    quantization: Annotated[rules.Quantization, Variable("vllm_k8s", "vllm_k8s_quantization")] = Field(
        description="How the checkpoint is quantized; null leaves it to what the checkpoint says.")
    max_model_len: Annotated[rules.TokenCount, Variable("vllm_k8s", "vllm_k8s_max_model_len")] = Field(
        description="Longest prompt plus answer, in tokens; more needs more GPU memory.")
    gpu_memory_utilization: Annotated[rules.Share, Variable("vllm_k8s", "vllm_k8s_gpu_memory_utilization")] = Field(
        description="Share of the GPU's memory that vLLM takes.")


class StorageSettings(Section):
    """Where the node keeps the model."""

    nvme_device: Annotated[rules.Device, Variable("nvme", "nvme_device")] = Field(
        description="Instance-store disk to use; null lets judge-node find it.")
    nvme_mount_path: Annotated[rules.MountPath, Variable("nvme", "nvme_mount_path")] = Field(
        description="Where the disk is mounted on the node.")
    models_dir: Annotated[rules.StorePath, Variable("model_cache", "model_cache_dir")] = Field(
        description="Root of the model store (the Hub's cache layout), below `storage.nvme_mount_path`.")

    @model_validator(mode="after")
    def _store_lies_on_the_disk(self) -> StorageSettings:
        if PurePosixPath(self.nvme_mount_path) not in PurePosixPath(self.models_dir).parents:
            raise PydanticCustomError("store_off_disk", "models_dir is not below nvme_mount_path")
        return self


class VllmSettings(Section):
    """The container that serves the model."""

    image: Annotated[rules.ImageName, Variable("vllm_k8s", "vllm_k8s_image")] = Field(
        description="Container image, without its tag.")
    tag: Annotated[rules.ImageTag, Variable("vllm_k8s", "vllm_k8s_image_tag")] = Field(
        description="Tag of the container image.")
    port: Annotated[rules.Port, Variable("vllm_k8s", "vllm_k8s_port")] = Field(
        description="Port that vLLM and the service listen on.")


class KubernetesSettings(Section):
    """Names of the Kubernetes objects."""

    namespace: Annotated[rules.NamespaceName, Variable("vllm_k8s", "vllm_k8s_namespace")] = Field(
        description="Namespace of the judge.")
    service_name: Annotated[rules.ServiceName, Variable("vllm_k8s", "vllm_k8s_service_name")] = Field(
        description="Name of the service, and of the objects behind it.")
    hf_secret_name: Annotated[rules.SecretName, Variable("vllm_k8s", "vllm_k8s_hf_secret_name")] = Field(
        description="Name of the Secret with a Hub token, for models that need one; the token is never a setting.")


class JudgeInference(Section):
    """All settings, complete."""

    model: ModelSettings
    storage: StorageSettings
    vllm: VllmSettings
    kubernetes: KubernetesSettings


class Document(Section):
    """The AppConfig document: one object with the key `judge_inference`."""

    judge_inference: JudgeInference


@dataclass(frozen=True)
class SettingField:
    """One setting: its path (`model.id`), what carries it, what it may hold."""

    path: str
    variable: Variable
    wanted: str
    description: str
    kind: type
    nullable: bool
    keywords: Mapping[str, Any]

    @property
    def env_variable(self) -> str:
        """The environment variable of this setting (`JUDGE_BOOTSTRAP_MODEL__ID`)."""
        return ENV_PREFIX + self.path.upper().replace(".", "__")

    @property
    def type_words(self) -> str:
        """The type as the documentation names it."""
        name = {str: "text", int: "whole number", float: "number"}[self.kind]
        return f"{name} or null" if self.nullable else name


def _fields() -> Iterator[SettingField]:
    for section, section_info in JudgeInference.model_fields.items():
        section_class = typing.cast("type[BaseModel]", section_info.annotation)
        for key, info in section_class.model_fields.items():
            rule = next(item for item in info.metadata if isinstance(item, rules.Rule))
            variable = next(item for item in info.metadata if isinstance(item, Variable))
            kinds = typing.get_args(info.annotation) or (info.annotation,)
            yield SettingField(path=f"{section}.{key}", variable=variable, wanted=rule.wanted,
                               description=info.description or "", kind=kinds[0], nullable=types.NoneType in kinds,
                               keywords=rule.keywords)


FIELDS: Mapping[str, SettingField] = types.MappingProxyType({field.path: field for field in _fields()})
BY_VARIABLE: Mapping[str, SettingField] = types.MappingProxyType(
    {field.variable.name: field for field in FIELDS.values()})
SECTIONS: tuple[str, ...] = tuple(JudgeInference.model_fields)
