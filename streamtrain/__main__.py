"""``python -m streamtrain`` is the command ``streamtrain``."""

from streamtrain.cli import main

if __name__ == "__main__":
    main()
