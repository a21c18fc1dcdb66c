"""`python -m worker` is `stockhook`."""

from worker.cli import main

if __name__ == "__main__":
    main()
