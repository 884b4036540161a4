"""Entry of `judge-node`, of `python -m judge_node` and of judge-node.pyz."""

from __future__ import annotations

import sys

from .unchanged import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
