"""Write terraform/appconfig.schema.json, by which AppConfig refuses what judge-bootstrap would refuse.

    python scripts/appconfig_schema.py           write it
    python scripts/appconfig_schema.py --check   exit 1 when it is not what would be written

It is JSON Schema draft 4, which is what AppConfig's validators read. One rule it cannot say: that models_dir lies below
nvme_mount_path. judge-bootstrap checks that itself, as it checks everything again.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from generated import ROOT, write_or_check

DOCUMENT = ROOT / "terraform" / "appconfig.schema.json"


def schema() -> dict[str, Any]:
    """Return the schema of the AppConfig document."""
    from judge_bootstrap.core import schema as settings

    sections: dict[str, Any] = {}
    for name in settings.SECTIONS:
        about = settings.JudgeInference.model_fields[name].annotation
        keys = {path.partition(".")[2]: of_field(field) for path, field in settings.FIELDS.items()
                if path.startswith(f"{name}.")}
        sections[name] = an_object(keys, (about.__doc__ or "") if about else "")
    return {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "title": "Settings of judge-bootstrap",
        **an_object({settings.ROOT: an_object(sections, "Sections and keys may be left out: lower layers set them.")},
                    "Written by scripts/appconfig_schema.py from judge-bootstrap's own schema."),
        "required": [settings.ROOT],
    }


def an_object(keys: dict[str, Any], description: str) -> dict[str, Any]:
    """Return the schema of an object with these keys, all optional, and no other."""
    return {"description": description, "type": "object", "additionalProperties": False, "properties": keys}


def of_field(field: Any) -> dict[str, Any]:
    """Return the schema of one setting. Keywords for texts and numbers hold for those alone, so null passes them."""
    kind = {str: "string", int: "integer", float: "number"}[field.kind]
    return {"description": f"{field.description} Wanted: {field.wanted}.",
            "type": [kind, "null"] if field.nullable else kind, **field.keywords}


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {DOCUMENT: json.dumps(schema(), indent=2) + "\n"}))
