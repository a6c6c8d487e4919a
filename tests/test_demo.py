"""The demo, and that the README shows what it prints."""

import re
from pathlib import Path

from tests.support.cli import run_cli

README = Path(__file__).parent.parent / "README.md"


def shape(text: str) -> list[str]:
    """The lines with every figure as 0."""
    return [re.sub(r"[0-9][0-9,.]*", "0", line).strip() for line in text.strip().splitlines()]


def test_the_demo_succeeds_and_prints_what_the_readme_shows() -> None:
    result = run_cli("demo", "--objects", "10000")
    assert result.exit_code == 0, result
    transcript = re.search(r"`make demo` prints:\n\n(.+?)\n\n## ", README.read_text(encoding="utf-8"), re.DOTALL)
    assert transcript is not None
    assert shape(result.stdout) == shape(transcript[1])
    assert "their keys equal the 100 new keys, byte for byte, each once" in result.stdout
