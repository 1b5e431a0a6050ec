"""What stands at the end of the help pages."""

EPILOG = """
Environment:

- `CMTOOL_DATA` : folder in which data sets are found; `--data-dir` goes before it

- `CMTOOL_CACHE` : folder for data sets and networks that were downloaded, and for what is computed
  once (features, engines); `~/.cache/cmtool` if not set

- `CMTOOL_OFFLINE` : 1 forbids every download; what is missing is then named, with its place

- `CXX` : the compiler of `--engine aoti` and `export aoti`; g++ or clang++ if not set

Results go to stdout, everything else to stderr. Nothing that is there is replaced without
`--overwrite`.

Exit codes:

- 0 : done

- 1 : something failed on the way: training, memory, the comparison of an export, some of many
  pictures

- 2 : a mistake in the command, a recipe or a file; the message says what to type

- 128 + n : stopped by signal n, 130 for Ctrl-C; what can be kept is saved, and `--resume` goes on

See also: `cmtool COMMAND --help`, `cmtool --list recipes`, and docs/README.md in the sources.
"""


def see_also(page: str, *commands: str) -> str:
    """The last line of a command's page.

    Example:
        >>> see_also("sampling.md", "eval")
        'See also: `cmtool eval --help`, docs/sampling.md.'
    """
    others = "".join(f"`cmtool {command} --help`, " for command in commands)
    return f"See also: {others}docs/{page}."
