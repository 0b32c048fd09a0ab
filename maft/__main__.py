"""``python -m maft`` is the command ``maft``, which launchers such as torchrun start as a module."""

from maft.cli import main

if __name__ == "__main__":
    main()
