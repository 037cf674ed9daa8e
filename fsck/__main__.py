"""`python -m cubefs.fsck URL`: the same as the command `cubefs.fsck`."""

from cubefs.app.cli import main_fsck

if __name__ == "__main__":
    main_fsck()
