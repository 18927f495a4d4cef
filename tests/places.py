"""Where the tests find things."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
"""Inputs, and what the original system makes of them."""
CONFIGS = ROOT / "configs"
SHARED = ROOT.parent / "shared"
"""Others' recordings, which may lie beside the repository."""
