"""The command line, `turnkeeper`. Needs the extra `cli`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; say what to install where its extra is missing."""
    try:
        from turnkeeper.cli.app import run  # noqa: PLC0415 - click and rich are an extra
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        print("turnkeeper: the command line needs an extra: pip install 'turnkeeper[cli]'", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    run()
