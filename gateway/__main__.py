"""``python -m gateway``, and the command ``gateway``, are the command line."""

import sys


def main() -> None:
    """Runs the command line, where what it needs is installed: an API or a workload may import the package without."""
    try:
        from gateway.cli.main import main as command_line
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "gateway":
            raise
        sys.exit(f"The command gateway needs {missing.name}: pip install 'workload-identity-gateway[server]'")
    command_line()


if __name__ == "__main__":
    main()
