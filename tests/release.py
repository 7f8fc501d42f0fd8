"""Checks before a version is tagged; each prints its finding.

python tests/release.py                 every check, on a clean tree
python tests/release.py --only versions one of them
python tests/release.py --record        keep the header, the bits and a file of this release in tests/
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # the package of this tree, whatever is installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import hashes

ROOT = Path(__file__).resolve().parents[1]
HASHES = ROOT / "tests" / "hashes.txt"
SAVED = ROOT / "tests" / "saved"
HEADER = "csrc/include/fastopt.h"


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def version() -> str:
    """The one in the header, from which the build takes it."""
    (found,) = re.findall(r'^#define FASTOPT_VERSION "(.+)"$', read(HEADER), re.MULTILINE)
    return found


def entry() -> tuple[str, str]:
    """The heading and the text of the newest version in the changelog."""
    _, heading, text = re.split(r"^## (.+)\n", read("CHANGELOG.md"), maxsplit=2, flags=re.MULTILINE)[:3]
    return heading, text


def clean() -> str:
    """Everything is committed."""
    if changes := run("git", "status", "--porcelain"):
        raise SystemExit(f"the tree must be clean, but it has\n{changes}")
    return run("git", "rev-parse", "--short", "HEAD").strip()


def versions() -> str:
    """Header, package, changelog and citation name one version."""
    import fastopt

    (citation,) = re.findall(r"^version: (.+)$", read("CITATION.cff"), re.MULTILINE)
    named = {
        HEADER: version(),
        "fastopt.__version__": fastopt.__version__,
        "CHANGELOG.md": entry()[0].partition(",")[0],
        "CITATION.cff": citation,
    }
    if len(set(named.values())) > 1:
        raise SystemExit(f"one version must stand everywhere, but there are {named}")
    return version()


def date() -> str:
    """The changelog gives the day of the release."""
    heading, _ = entry()
    if not re.fullmatch(r"\d+\.\d+\.\d+, \d{4}-\d\d-\d\d", heading):
        raise SystemExit(f"CHANGELOG.md: the newest version must be like '0.2.0, 2026-12-31', but it is {heading!r}")
    return heading


def lines() -> list[str]:
    return [f"{hashes.by_package(case, dtype)} {case.name} {dtype.__name__}" for case, dtype in hashes.everything()]


def bits() -> str:
    """Bits are those of the last release, or the changelog says which changed."""
    if not HASHES.exists():
        return "no release has recorded its bits"
    now = {line.partition(" ")[2]: line for line in lines()}
    before = {line.partition(" ")[2]: line for line in HASHES.read_text(encoding="utf-8").splitlines()}
    changed = [name for name, line in before.items() if now.get(name) != line]
    if changed and "### Changed bits" not in entry()[1]:
        raise SystemExit(f"CHANGELOG.md must list changed bits; changed since the last release: {', '.join(changed)}")
    return f"{len(changed)} of {len(before)} hashes changed since the last release"


def header() -> str:
    """The header of this release is kept for the tests of the ABI."""
    kept = f"tests/abi/fastopt-{version()}.h"
    if not (ROOT / kept).exists() or read(kept) != read(HEADER):
        raise SystemExit(f"{kept} must be the header of this release; --record writes it")
    return kept


def record() -> None:
    """Keep the header and the bits of this release, and a file that it has saved with every class."""
    import fastopt
    from support import registry, released

    (ROOT / "tests" / "abi" / f"fastopt-{version()}.h").write_text(read(HEADER), encoding="utf-8")
    HASHES.write_text("\n".join(lines()) + "\n", encoding="utf-8")
    rules = list(registry.CLASSES)
    opt = released.optimizer(rules)
    for _ in range(2):
        released.step(opt, rules)
    fastopt.save(SAVED / f"{version()}.safetensors", opt)


def sdist() -> str:
    """The source distribution is well described, and two builds give the same bytes."""
    built = []
    environment = {**os.environ, "SOURCE_DATE_EPOCH": run("git", "log", "-1", "--format=%ct").strip()}
    with tempfile.TemporaryDirectory() as folder:
        for place in ("first", "second"):
            out = Path(folder, place)
            command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out)]
            subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
            (file,) = out.iterdir()
            built.append(file.read_bytes())
        run(sys.executable, "-m", "twine", "check", "--strict", str(file))
        if built[0] != built[1]:
            raise SystemExit(f"{file.name}: two builds must give the same bytes")
        return f"{file.name}, {len(built[0]):,} bytes"


CHECKS = {check.__name__: check for check in (clean, versions, date, header, bits, sdist)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CHECKS, action="append", help="one check; may be given several times")
    parser.add_argument("--record", action="store_true", help="keep the header, the bits and a file of this release")
    options = parser.parse_args()
    if options.record:
        record()
        return
    for name in options.only or CHECKS:
        print(f"{name}: {CHECKS[name]()}", flush=True)


if __name__ == "__main__":
    main()
