"""Has another implementation (PyPI `aics-tlog`, Python 3.12 or newer) verify an audit log.

Usage: audit_tlog.py LOG_FOLDER AUDIT_PUB [SAVED_CHECKPOINT]

Checks the checkpoint's signature, the inclusion of some entries, and that the log grew from the saved checkpoint.
"""

import pathlib
import subprocess
import sys


def verify(command, *options):
    """Runs one check; its exit status is the verdict."""
    words = [sys.executable, "-m", "aics_tlog", command, *map(str, options)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{command} failed: {done.stdout}{done.stderr}")


def main(folder, key, saved=None):
    folder = pathlib.Path(folder)
    checkpoint = folder / "checkpoint"
    size = int(checkpoint.read_text().splitlines()[1])
    source = ["--vkey-file", key, "--tiles", folder]
    verify("verify-checkpoint", "--note", checkpoint, "--vkey-file", key)

    wanted = sorted({0, 255, 256, 257, size // 2, size - 1} & set(range(size)))
    segments = sorted(folder.glob("entries-*.jsonl"), reverse=True)
    for index in wanted:
        segment = next(s for s in segments if int(s.stem.removeprefix("entries-")) <= index)
        line = index - int(segment.stem.removeprefix("entries-")) + 1
        leaf = ["--leaves-file", segment, "--leaf-line", line, "--index", index]
        verify("verify-inclusion", *leaf, "--checkpoint", checkpoint, *source)

    if saved is not None:
        verify("verify-consistency", "--old-checkpoint", saved, "--checkpoint", checkpoint, *source)
    print(f"ok: {size} entries, {len(wanted)} proven inside" + (", grown from the saved checkpoint" if saved else ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
