"""`python -m worker` is `stockhook`."""

from worker.cli.app import main

if __name__ == "__main__":
    main()
