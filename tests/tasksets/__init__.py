"""Tasksets of verifiers as somebody else would write them; `packages` puts them where installed packages are."""

from __future__ import annotations

from pathlib import Path

PACKAGES = Path(__file__).parent
