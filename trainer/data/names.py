"""Where an image belongs, by its name alone."""

from collections.abc import Iterable
from typing import NamedTuple

from trainer.data.dataset import SPLITS, check_names
from trainer.errors import DataError

_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini"}


class Layout(NamedTuple):
    """Class folders, sorted out."""

    classes: tuple[str, ...]
    members: dict[str, list[tuple[str, int]]]
    """Files of each split, and their class numbers."""
    ignored: int
    """Files outside of train/ and test/."""


def sort_into_classes(names: Iterable[str]) -> Layout:
    """Find each image's split and class; refuse what has no clear place."""
    found: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    roots: set[str] = set()
    seen: set[str] = set()
    ignored = 0
    for name in sorted(names):
        parts = _parts(name)
        if any(part.startswith(".") or part in _LITTER for part in parts):
            continue
        depth = 0 if parts[0] in SPLITS else 1
        is_folder = name.endswith(("/", "\\"))
        if len(parts) == depth or parts[depth] not in SPLITS:
            ignored += not is_folder
            continue
        roots.add("/".join(parts[:depth]))
        split, rest = parts[depth], parts[depth + 1 :]
        if is_folder:
            if len(rest) == 1:
                found[split].setdefault(rest[0], [])
            continue
        if len(rest) != 2:
            raise DataError(f"images must lie in {split}/<class>/, got {name}")
        path = "/".join(parts)
        if path in seen:
            raise DataError(f"names must be unique, got {path} twice")
        seen.add(path)
        found[split].setdefault(rest[0], []).append(name)
    if len(roots) > 1:
        raise DataError(
            f"train and test must lie side by side, got {' and '.join(sorted(map(repr, roots)))}"
        )
    classes = _check_classes(found)
    members = {
        split: [(file, number) for number, name in enumerate(classes) for file in files[name]]
        for split, files in found.items()
    }
    return Layout(classes, members, ignored)


def _parts(name: str) -> list[str]:
    """Take a name apart; refuse one that leads out of the data set."""
    path = name.replace("\\", "/")
    # Not by pathlib, which takes as long for a name as half a small image does.
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.startswith("/") or ".." in parts or parts[0][1:2] == ":":
        raise DataError(f"names must stay inside the data set, got {name!r}")
    return parts


def _check_classes(found: dict[str, dict[str, list[str]]]) -> tuple[str, ...]:
    for split in SPLITS:
        if not found[split]:
            raise DataError(f"data must hold {split}/<class>/ folders with images, got no {split}/")
    train, test = (found[split].keys() for split in SPLITS)
    # First, or else Cat in train/ and cat in test/ would be two classes that lack a split.
    check_names(sorted(train | test))
    for lonely, present, missing in ((train - test, *SPLITS), (test - train, *reversed(SPLITS))):
        if lonely:
            lost = ", ".join(sorted(lonely))
            raise DataError(
                f"each class must be in train and test, "
                f"got {lost} in {present}/ but not in {missing}/"
            )
    classes = tuple(sorted(train))
    for split in SPLITS:
        for name in classes:
            if not found[split][name]:
                raise DataError(f"each class must have an image, got none in {split}/{name}/")
    return classes
