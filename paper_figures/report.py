"""What the artefacts share: tables in Markdown and csv, numbers with their intervals."""

import csv


def markdown_table(header, rows):
    """A Markdown table: a header and rows of cells, as text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_csv(path, header, rows):
    """A csv file of a header and rows."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def with_interval(percent, low, high):
    """41.8 [38.9, 44.7]"""
    return f"{percent:.1f} [{low:.1f}, {high:.1f}]"
