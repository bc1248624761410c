"""The program. It listens to signals before anything large is imported."""

import sys

from tutelage.machines import listen, stay_deaf


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    listen(sys.argv[1:])
    from tutelage.cli import main as run

    code = run()
    stay_deaf()
    sys.exit(code)


if __name__ == "__main__":
    main()
