"""Builds the site; `make docs` calls it."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from tools.docs_site import built, cli, errors, http, navigation, protos, sdk, settings
from tools.docs_site.staging import ROOT, stage

CONFIG = ROOT / "zensical.toml"


def reference() -> dict[str, str]:
    """The generated pages, by their path in the site's sources."""
    return {
        "reference/cli.md": cli.page(),
        "reference/settings.md": settings.page(),
        "reference/errors.md": errors.page(),
        "reference/http.md": http.page(),
        "reference/sdk.md": sdk.page(),
        **{f"reference/grpc/{name}.md": text for name, text in protos.pages().items()},
    }


def write_sources(folder: Path) -> Path:
    """Writes all pages and the configuration with the navigation.

    Returns:
        The configuration file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    stage(pages)
    for name, text in reference().items():
        path = pages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    config = folder / CONFIG.name
    given = CONFIG.read_text(encoding="utf-8")
    nav = f"[project]\nnav = {navigation.as_toml(navigation.sections(pages))}\n"
    config.write_text(given.replace("[project]\n", nav, 1), encoding="utf-8")
    return config


def render(config: Path) -> subprocess.CompletedProcess[str]:
    """Turns the pages into HTML, in the folder `site` beside the configuration.

    Returns:
        The finished command; its exit code is not 0 if a link or anchor leads nowhere.
    """
    zensical = str(Path(sys.executable).with_name("zensical"))
    command = [zensical, "build", "--strict", "--clean", "--config-file", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main() -> int:
    """Builds the site; returns 1 if a page has a fault, such as a link that leads nowhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "build/site")
    output = parser.parse_args().output.resolve()
    config = write_sources(output.with_name(f"{output.name}-sources"))
    done = render(config)
    if done.returncode != 0:
        sys.stderr.write(done.stdout + done.stderr)
        return 1
    shutil.rmtree(output, ignore_errors=True)
    (config.parent / "site").rename(output)
    if faults := built.faults(output):
        sys.stderr.write("\n".join(faults) + "\n")
        return 1
    sys.stdout.write(f"{len(list(output.rglob('*.html')))} pages in {output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
