from pathlib import Path


def write(directory: Path) -> Path:
    return directory / "report.html"
