"""``python -m transship``, and the command ``transship``.

Worker processes import this module again, under another name, so that it imports nothing until it is called.
"""

import sys


def main() -> int:
    """Run the command line; return its exit code."""
    from transship.cli.main import main as run  # noqa: PLC0415 - see above

    return run()


if __name__ == "__main__":
    sys.exit(main())
