"""`python -m unialign`: the command line."""

from unialign.cli import main

if __name__ == "__main__":
    main()
