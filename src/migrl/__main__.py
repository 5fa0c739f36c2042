"""The command `migrl`, and `python -m migrl`."""

import signal


def main() -> None:
    """Entry point. Until all is imported, Ctrl-C ends the process by its signal, and not in a library's traceback."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a background job of a shell ignores it
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from migrl.cli import main as run

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
