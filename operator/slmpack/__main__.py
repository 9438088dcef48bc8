"""`python -m slmpack` is `slmpack`."""

from slmpack.cli import main

if __name__ == "__main__":
    main()
