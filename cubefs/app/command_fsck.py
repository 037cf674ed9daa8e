"""placeholder until fsck is there"""

import argparse

SUMMARY = DESCRIPTION = "x"


def add_arguments(p: argparse.ArgumentParser) -> None: ...


add_fsck8_arguments = add_arguments
