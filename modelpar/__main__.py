"""``python -m modelpar``: the same as the console command ``modelpar``."""

from modelpar.cli import main

if __name__ == "__main__":
    main()
