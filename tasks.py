#!/usr/bin/env python3
"""The task runner: sets up .venv once, then runs one of the tasks. Needs nothing but Python ≥ 3.11 with venv.

python3 tasks.py run [...]     the demo: gateway, worker, embedded server and page (arguments go to `relay dev`)

python3 tasks.py test [--all]  the tests; --all adds those that need Redis, Chromium or minutes (arguments go to pytest)
python3 tasks.py check         ruff, mypy, luacheck and eslint (the last two where they are installed)
python3 tasks.py bench [...]   the benchmarks, or those that are named
python3 tasks.py mutants       breaks the code in known ways, and shows which tests notice (--only WORD,WORD)
python3 tasks.py soak [...]    random faults for a while (--minutes N), and a count of what was promised
python3 tasks.py shaker [...]  random delays and viewers that come and go (--minutes N), and what each was shown

Each with --help does nothing but tell its arguments.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"


HELP = {"-h", "--help"}


def main(arguments: list[str]) -> int:
    tasks = {
        "run": run, "test": test, "check": check, "bench": bench, "mutants": mutants, "soak": soak, "shaker": shaker,
    }  # fmt: skip
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name not in tasks:
        if name and name not in HELP:
            print(f"there is no task {name}\n")
        print(__doc__)
        return 0 if name in HELP else 2
    if sys.version_info < (3, 11):  # noqa: UP036 - a stranger's python3 may be older, and deserves the sentence
        print("relay needs Python 3.11 or newer; this is " + sys.version.split()[0])
        return 2
    if HELP & set(rest):
        return explain(name)
    return tasks[name](rest)


def explain(name: str) -> int:
    """The line of this task, and the help of the command that its arguments go to. Installs nothing."""
    print(
        next(line for line in (__doc__ or "").splitlines() if line.startswith(f"python3 tasks.py {name} ")), flush=True
    )
    commands = {"run": [str(BIN / "relay"), "dev"], "test": [str(PYTHON), "-m", "pytest"]}
    commands |= {task: [str(PYTHON), "-m", f"tests.{task}"] for task in ("bench", "mutants", "soak", "shaker")}
    command = commands.get(name)
    if command is None:
        return 0
    is_set_up = Path(command[0]).exists() if name == "run" else (VENV / ".installed-test").exists()
    if not is_set_up:
        print("Its other arguments are told once .venv is there: after the first run.")
        return 0
    return become(*command, "--help")


def run(rest: list[str]) -> int:
    set_up(["-e", ".[dev]"], "run")
    return become(str(BIN / "relay"), "dev", *rest)


def test(rest: list[str]) -> int:
    set_up(["-e", ".[dev]", "--group", "test"], "test")
    everything = "--all" in rest
    rest = [argument for argument in rest if argument != "--all"]
    if everything:
        install_system_packages()
        install_npm_packages()
        install_foreign_servers()
        if not rest and (code := optimized()):
            return code
    selection = ["--hypothesis-profile=all"] if everything else ["-m", "not slow"]
    # More at a time than there are cores on a small machine: scenarios wait for processes more than they compute.
    parallel = [] if any(argument.startswith("-n") for argument in rest) else ["-n", "3", "--dist", "worksteal"]
    return become(str(PYTHON), "-m", "pytest", *selection, *parallel, *rest)


def optimized() -> int:
    """A minute of the tests with asserts taken out of our code and of libraries'. pytest keeps those of test files.

    What libraries do for us (sockets, uvicorn, redis-py, OpenAI's client), the paths that once had asserts, and an
    answer from end to end by real processes, on both event loops.
    """
    tests = [
        "gateway/test_connection.py", "gateway/test_viewer.py", "gateway/test_event_stream.py",
        "gateway/test_http_protocol.py", "store/session/test_session_log.py", "redis/pubsub/test_subscriber.py",
        "workers/writing/test_batching.py", "workers/writing/test_delivery.py",
        "workers/providers/test_openai_background.py", "scenarios/gateway/test_event_loops.py",
    ]  # fmt: skip
    command = [str(PYTHON), "-m", "pytest", "-m", "not slow", "-n", "3", "--dist", "worksteal"]
    paths = [f"tests/{path}" for path in tests]
    return subprocess.call([*command, *paths], cwd=ROOT, env={**os.environ, "PYTHONOPTIMIZE": "1"})


def check(rest: list[str]) -> int:
    if rest:
        print(f"tasks.py check takes no arguments: {' '.join(rest)}")
        return 2
    set_up(["-e", ".[dev]", "--group", "test"], "test")
    if os.environ.get("CI"):
        install_system_packages()
        install_npm_packages()
    return (
        call(str(PYTHON), "-m", "ruff", "check", ".")
        or call(str(PYTHON), "-m", "ruff", "format", "--check", ".")
        or call(str(PYTHON), "-m", "mypy")
        or call(str(PYTHON), "-m", "tests.lint")
    )


def bench(rest: list[str]) -> int:
    set_up(["-e", ".[dev]", "--group", "test"], "test")
    return become(str(PYTHON), "-m", "tests.bench", *rest)


def mutants(rest: list[str]) -> int:
    set_up(["-e", ".[dev]", "--group", "test"], "test")
    return become(str(PYTHON), "-m", "tests.mutants", *rest)


def soak(rest: list[str]) -> int:
    set_up(["-e", ".[dev]", "--group", "test"], "test")
    return become(str(PYTHON), "-m", "tests.soak", *rest)


def shaker(rest: list[str]) -> int:
    set_up(["-e", ".[dev]", "--group", "test"], "test")
    return become(str(PYTHON), "-m", "tests.shaker", *rest)


def set_up(packages: list[str], name: str) -> None:
    """Make .venv and install into it what constraints.txt pins, unless just that was installed there already."""
    constraints = ROOT / "constraints.txt"
    wanted = (ROOT / "pyproject.toml").read_bytes() + constraints.read_bytes()
    fingerprint = hashlib.sha256(wanted).hexdigest()
    mark = VENV / f".installed-{name}"
    if mark.exists() and mark.read_text() == fingerprint:
        return
    if not PYTHON.exists():
        print(f"making {VENV.name} …", flush=True)
        venv.create(VENV, with_pip=True)
    print("installing packages …", flush=True)
    pip = [str(PYTHON), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-c", str(constraints)]
    subprocess.run([*pip, "--upgrade", "pip"], cwd=ROOT, check=True)  # what comes with Python has no --group
    subprocess.run([*pip, "--build-constraint", str(constraints), *packages], cwd=ROOT, check=True)
    mark.write_text(fingerprint)


def install_system_packages() -> None:
    """As root on Debian: install what the whole test suite wants and this machine lacks."""
    wanted = {
        "redis-server": "redis-server", "chromium": "chromium", "openssl": "openssl", "nginx": "nginx",
        "cc": "build-essential", "luacheck": "lua-check",
    }  # fmt: skip
    missing = [package for command, package in wanted.items() if not shutil.which(command)]
    if not missing or not shutil.which("apt-get") or os.geteuid() != 0:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "env": environment}
    print("installing " + ", ".join(missing) + " …", flush=True)
    subprocess.run(["apt-get", "update", "-q"], **quiet, check=False)
    subprocess.run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing], **quiet, check=False)


def install_npm_packages() -> None:
    """What the browser client is tested, linted and type-checked with, each in the version that tests/npm pins."""
    npm, folder = shutil.which("npm"), ROOT / "tests" / "npm"
    fingerprint = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    mark = folder / "node_modules" / ".installed"
    if npm is None or (mark.exists() and mark.read_text() == fingerprint):
        return
    print("installing npm packages …", flush=True)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    if subprocess.run(command, cwd=folder, check=False).returncode == 0:
        mark.write_text(fingerprint)


def install_foreign_servers() -> None:
    """Model servers that others wrote, into a .venv of their own: their dependencies are not to meet ours."""
    requirements = ROOT / "tests" / "scenarios" / "foreign" / "requirements.txt"
    target = ROOT / ".venv-foreign"
    fingerprint = hashlib.sha256(requirements.read_bytes()).hexdigest()
    mark = target / ".installed"
    if mark.exists() and mark.read_text() == fingerprint:
        return
    print("installing foreign model servers …", flush=True)
    venv.create(target, clear=True)
    pip = [str(PYTHON), "-m", "pip", "--python", str(target), "--disable-pip-version-check"]
    options = ["-qq", "--no-compile", "--only-binary", ":all:", "-r", str(requirements)]
    if subprocess.run([*pip, "install", *options], check=False).returncode == 0:
        mark.write_text(fingerprint)


def call(*command: str) -> int:
    return subprocess.call(command, cwd=ROOT)


def become(*command: str) -> int:
    """Be this command from here on, so that Ctrl-C and signals reach it and nobody else."""
    if os.name != "nt":  # Windows has no exec worth the name
        os.chdir(ROOT)
        os.execv(command[0], command)
    return call(*command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
