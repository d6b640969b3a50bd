"""`python -m adamix_lab ...` is the command `adamix-lab ...`."""

from adamix_lab.cli.main import main

if __name__ == "__main__":
    main()
