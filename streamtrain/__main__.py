"""The command `streamtrain`, also as ``python -m streamtrain``."""

import signal


def main() -> None:
    """Runs the command; until it is loaded, Ctrl-C ends the process without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from streamtrain.cli.command import main as command

    signal.signal(signal.SIGINT, before)
    command()


if __name__ == "__main__":
    main()
