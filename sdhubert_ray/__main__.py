"""The command `sdhubert`, and `python -m sdhubert_ray`."""

import sys


def main() -> None:
    """Run the command line; one that is interrupted before it has been loaded ends as one that is later."""
    try:
        from sdhubert_ray.cli import main as run
    except KeyboardInterrupt:
        print("sdhubert: interrupted; the same command begins again", file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
