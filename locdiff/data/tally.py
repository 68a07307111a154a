"""The count that commands end with, so that no file vanishes without a word."""

from dataclasses import dataclass, field

FIRST = 3  # names that are shown of each kind
REMEDIES = {
    ".heic": "needs pip install pillow-heif", ".heif": "needs pip install pillow-heif", ".hif": "needs pip install "
    "pillow-heif", ".avif": "needs pip install -U pillow", ".dng": "not supported: convert it to JPEG",
}  # fmt: skip


@dataclass
class Some:
    """How many there are, and the first few names."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if self.count <= FIRST:
            self.first.append(name)


@dataclass
class Tally:
    """What became of the files of a source; `ignored` goes by ending, `table` names the table of places, if any.

    `failed` holds names with reasons. `unlisted` pictures have no line in the table.
    """

    found: int = 0
    used: int = 0
    failed: Some = field(default_factory=Some)
    ignored: dict[str, Some] = field(default_factory=dict)
    without_place: Some = field(default_factory=Some)
    unlisted: Some = field(default_factory=Some)
    table: str | None = None
    noun: str = "pictures"

    def ignore(self, ending: str, name: str) -> None:
        """Count a file that is not read because of its ending."""
        self.ignored.setdefault(ending, Some()).add(name)

    def __str__(self):
        """Return one line for each kind that there is: how many, and the first few names."""
        lines = [f"found {self.found:,} {self.noun}", f"used {self.used:,}"]
        for what, some in (
            ("failed", self.failed),
            ("not in the table", self.unlisted),
            ("without a place", self.without_place),
        ):
            if some.count:
                lines.append(f"{what} {some.count:,}: {_names(some)}")
        return "\n".join([*lines, *self.describe_ignored()])

    def describe_ignored(self) -> list[str]:
        """Return one line for each ending that is not read, with the remedy if there is one."""
        lines = []
        for ending, some in sorted(self.ignored.items()):
            remedy = f" ({REMEDIES[ending]})" if ending in REMEDIES else ""
            lines.append(f"ignored {some.count:,} {ending or 'without an ending'}{remedy}: {_names(some)}")
        return lines


def _names(some):
    return ", ".join(some.first) + ", ..." * (some.count > len(some.first))
