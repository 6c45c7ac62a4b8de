"""Installs what the tests run against and cannot bring along: a Prometheus, Node.js and its clients, a loader.

Called by ``make test`` and ``make bench``. Where it may not install (not root, no apt), it says what is missing; the
tests that need it are then skipped, except under CI=true, where a missing part fails them.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

NODE_CLIENTS = Path(__file__).parent / "interoperability" / "node"
DEBIAN_PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "node": "nodejs",
    "npm": "npm",
    "curl": "curl",
    "jq": "jq",
    "nginx": "nginx",
    "redis-server": "redis-server",
    "logrotate": "logrotate",
    "go": "golang-go",
}
DEBIAN_LIBRARIES = {Path("/usr/share/gocode/src/golang.org/x/oauth2"): "golang-golang-x-oauth2-dev"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", action="store_true", help="the loader of the benchmarks as well")
    arguments = parser.parse_args()
    wanted = dict(DEBIAN_PACKAGES)
    if arguments.bench:
        wanted["wrk"] = "wrk"
    missing = {package for command, package in wanted.items() if shutil.which(command) is None}
    missing |= {package for folder, package in DEBIAN_LIBRARIES.items() if not folder.exists()}
    if missing:
        install_debian_packages(sorted(missing))
    install_node_clients()
    return 0


def install_debian_packages(packages: list[str]) -> None:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"Not installed: {', '.join(packages)}. Some tests will be skipped; install with: "
              f"sudo apt-get install {' '.join(packages)}", file=sys.stderr)  # fmt: skip
        return
    print(f"Installing {', '.join(packages)} ...", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"apt-get {command[0]} failed:\n{done.stderr}", file=sys.stderr)
            return


def install_node_clients() -> None:
    """Installs the packages of tests/interoperability/node as its lock file has them, once."""
    if shutil.which("npm") is None or not (NODE_CLIENTS / "package-lock.json").exists():
        return
    installed = NODE_CLIENTS / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= (NODE_CLIENTS / "package-lock.json").stat().st_mtime:
        return
    print("Installing the Node.js clients ...", flush=True)
    done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=NODE_CLIENTS,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode != 0:
        print(f"npm ci failed:\n{done.stderr}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
