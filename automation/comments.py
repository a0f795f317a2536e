"""Text of others in a Markdown comment, where it can do nothing, and no more of it than fits."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from automation.engine_events import COLOUR, SECRET, SIGNATURE, UNKNOWN_VALUES

MOST_CHARACTERS: Final = 64_000
"""GitHub refuses a comment of more than 65,536."""
MOST_BLOCK: Final = 5_000
MOST_LINE: Final = 1_000
MOST_VALUE: Final = 400
"""Characters of one value, one name or one warning."""
ROOM_FOR_NOTE: Final = 200
"""A section's title, and how much of it was left out."""

ASSET_SIGNATURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "c44067f5952c0a294b673a41bacd8c17": "file",
        "0def7320c3a5731c473e5ecbe6d01bc7": "archive",
    }
)
UNKNOWN: Final = "unknown until deployed"
ACCESS_KEY = re.compile(r"(?:AKIA|ASIA)[A-Z0-9]{16}")
INVISIBLE: Final = ("Cc", "Cf", "Cs", "Co")
"""Unicode's categories of what controls, joins, turns or hides letters."""
STACK_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./-]{0,199}")


@dataclass
class Section:
    """A part of a comment; of its chunks, those that fit are shown, and the rest is counted."""

    title: str
    chunks: list[str]
    most: int = MOST_CHARACTERS
    folded: bool = False


def watermark(kind: str, stack: str, *more: str) -> str:
    """Return the line that tells a comment from all others, to be found again by it."""
    if not STACK_NAME.fullmatch(stack):
        raise ValueError(f"stack must be a Pulumi stack's name, got {stack!r}")
    return f"<!-- {':'.join(('pushtrain', kind, stack, *more))} -->"


@dataclass(frozen=True)
class Writer:
    """Puts foreign text into Markdown so that it can do nothing there."""

    secrets: tuple[str, ...] = ()
    """Longest first, since one may be part of another."""

    def clean(self, text: str) -> str:
        """Strike out secrets, and whatever could hide or turn the text that is seen."""
        text = COLOUR.sub("", self._struck(text))
        if not text.isprintable():
            text = "".join(
                letter
                for letter in text
                if letter in "\n\t" or unicodedata.category(letter) not in INVISIBLE
            )
        return ACCESS_KEY.sub(SECRET, self._struck(text))

    def code(self, text: str) -> str:
        """Return a code span: nothing in it is a tag, a link, a mention or a table's border."""
        text = cut(" ".join(self.clean(text).split()), MOST_VALUE) or " "
        marks = "`" * (_longest_run(text) + 1)
        space = " " if text[0] == "`" or text[-1] == "`" else ""
        return f"{marks}{space}{text}{space}{marks}"

    def text_block(self, text: str) -> str:
        """Return a fenced block of a message; cleaned whole, since a secret may have lines."""
        return self.block(self.clean(text).strip().splitlines(), "text")

    def block(self, lines: Sequence[str], language: str = "diff") -> str:
        """Return a fenced block, without what would make it too long."""
        rows: list[str] = []
        room = MOST_BLOCK
        for position, line in enumerate(lines):
            row = cut(self.clean(line).replace("\n", " "), MOST_LINE)
            if len(row) >= room:
                rows.append(f"… {len(lines) - position:,} more lines")
                break
            rows.append(row)
            room -= len(row) + 1
        text = "\n".join(rows)
        marks = "`" * max(3, _longest_run(text) + 1)
        return f"{marks}{language}\n{text}\n{marks}"

    def value(self, value: Any) -> str:
        """Return a value on one line."""
        if isinstance(value, str) and value in UNKNOWN_VALUES:
            return UNKNOWN
        if isinstance(value, Mapping):
            entries = cast("Mapping[str, Any]", value)
            if found := ASSET_SIGNATURES.get(str(entries.get(SIGNATURE))):
                return f"{found} {str(entries.get('hash', ''))[:12]}".strip()
        return cut(self.clean(json.dumps(value, ensure_ascii=False)), MOST_VALUE)

    def _struck(self, text: str) -> str:
        for secret in self.secrets:
            for ascii_only in (False, True):
                text = text.replace(json.dumps(secret, ensure_ascii=ascii_only)[1:-1], SECRET)
            text = text.replace(secret, SECRET)
        return text

    def cell(self, text: str) -> str:
        """Return a code span for a table, whose borders count within code too."""
        return self.code(text).replace("|", "\\|")


def fit(head: str, sections: Sequence[Section]) -> str:
    """Put the sections in, as far as there is room: what is folded comes last and gives way."""
    sections = [section for section in sections if section.chunks]
    text = head
    for position, section in enumerate(sections):
        later = ROOM_FOR_NOTE * (len(sections) - position - 1)
        if section.folded:
            opening = f"<details>\n<summary>{section.title}</summary>\n"
            closing = "\n</details>"
        else:
            opening, closing = f"### {section.title}\n", ""
        room = min(MOST_CHARACTERS - len(text) - later, section.most)
        room -= len(opening) + len(closing) + ROOM_FOR_NOTE
        taken: list[str] = []
        for chunk in section.chunks:
            if len(chunk) + 2 > room:
                break
            taken.append(chunk)
            room -= len(chunk) + 2
        separator = "\n" if all(chunk.startswith("- ") for chunk in taken) else "\n\n"
        body = separator.join(taken)
        if left := section.chunks[len(taken) :]:
            size = sum(map(len, left))
            body += f"\n\n*{len(left)} more left out here, {size:,} characters.*"
        text += f"\n\n{opening}\n{body}\n{closing}".rstrip("\n")
    return text + "\n"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def cut(text: str, most: int) -> str:
    """Return a text of about so many characters, and how many are missing."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"
