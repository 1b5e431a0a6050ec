"""File formats that a model leaves in, one file each; `cmtool --list formats`."""
