"""The commands of `echolung fetch`: sets that only registered users may download, by their own signed URL."""

import os
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path

import click

from echolung.core.errors import DataError, DependencyError, listed
from echolung.core.runtime import atomic_directory
from echolung.stage import project

VARIABLE = "ECHONET_DYNAMIC_URL"
RENEW = f"Ask for a new link at https://echonet.github.io/dynamic, put it into {VARIABLE} and call again."
REFUSED = 22  # curl's exit code for an HTTP error


@click.group()
def fetch() -> None:
    """Download a set that asks for registration, by your own signed URL."""


@fetch.command("echonet-dynamic")
def echonet_dynamic() -> None:
    """Download EchoNet-Dynamic to <public_sets>/echonet-dynamic, from the signed URL in ECHONET_DYNAMIC_URL.

    An interrupted download goes on where it stopped. The archive is checked, and unpacked as a whole or not at all.

    \b
    Example:
      ECHONET_DYNAMIC_URL='https://...' echolung fetch echonet-dynamic
    """
    root, settings = project()
    target = root / Path(settings.public_sets or "data/raw").expanduser() / "echonet-dynamic"
    if target.exists():
        raise DataError(f"{target} exists", "To download it again, move it away first.")
    url = os.environ.get(VARIABLE, "")
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{VARIABLE} holds no URL", RENEW)
    archive = target.with_name("echonet-dynamic.zip.part")
    archive.parent.mkdir(parents=True, exist_ok=True)
    download(url, archive)
    click.echo(f"{unpack(archive, target)} videos in {target}.")


def download(url: str, file: Path) -> None:
    """Bring `file` to the end of what `url` holds, by curl, which goes on where an earlier call stopped."""
    if not shutil.which("curl"):
        raise DependencyError("curl is not installed", "apt-get install curl")
    options = ["--fail", "--location", "--continue-at", "-", "--retry", "5", "--output", str(file), "--config", "-"]
    # By standard input: other users of this machine can read arguments.
    done = subprocess.run(["curl", *options], input=f'url = "{url}"', text=True, check=False)
    if done.returncode == REFUSED:
        problem = f"the server refused the link in {VARIABLE}: most expire after some days"
        raise DataError(problem, f"{RENEW} What was downloaded is kept.")
    if done.returncode:
        remedy = "Check the network. Call again: it goes on where it stopped."
        raise DataError(f"the download of {file.name} stopped (curl: {done.returncode})", remedy)


def unpack(archive: Path, target: Path) -> int:
    """Unpack EchoNet-Dynamic, check that it is complete, remove the archive; returns the number of videos."""
    from echolung.data.sources.layouts import scan

    try:
        with atomic_directory(target) as folder:
            with zipfile.ZipFile(archive) as found:
                found.extractall(folder / "all")  # checks each file's CRC
            tables = sorted((folder / "all").rglob("FileList.csv")) or [folder / "all" / "FileList.csv"]
            for entry in list(tables[0].parent.iterdir()):
                entry.replace(folder / entry.name)
            shutil.rmtree(folder / "all")
            paths = scan("echonet", folder, "dynamic").manifest["path"]
            if missing := [Path(path).name for path in paths if not Path(path).is_file()]:
                raise DataError(f"the archive lacks {len(missing)} videos: {listed(missing)}", "")
    except (zipfile.BadZipFile, zlib.error, DataError) as error:
        why = getattr(error, "problem", str(error))
        raise DataError(f"{archive} is not a whole EchoNet-Dynamic ({why})", f"Delete it. {RENEW}") from None
    archive.unlink()
    return len(paths)
