"""What the artefacts share: tables in Markdown."""


def markdown_table(header, rows):
    """A Markdown table: a header and rows of cells, as text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
