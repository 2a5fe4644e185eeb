"""``python -m notifierd``."""

from notifierd.cli import main

if __name__ == "__main__":
    main()
