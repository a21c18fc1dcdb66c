"""`python -m worker` is `stockhook`."""

from worker.cli.entry_point import main

if __name__ == "__main__":
    main()
