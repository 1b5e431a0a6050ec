"""`python -m cmtool`, the target of `accelerate launch -m cmtool` and `torchrun -m cmtool`."""

from cmtool.cli import main

if __name__ == "__main__":
    main()
