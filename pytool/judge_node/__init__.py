"""What runs on a GPU node: local disks and the model store.

Standard library only, Python 3.9 syntax, shipped as one file.
"""

from __future__ import annotations

__version__ = "0.1.0"
