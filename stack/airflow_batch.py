"""Several `airflow` commands in one process: each process of its own would import Airflow again, 3 s of CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run each command of a JSON file with a list of argument lists, in order; the first failure ends the process.

    A file, because arguments may hold passwords and everybody can read a command line.
    """
    from airflow.cli.cli_parser import get_parser
    from airflow.configuration import write_default_airflow_configuration_if_needed

    write_default_airflow_configuration_if_needed()
    parser = get_parser()
    for command in json.loads(Path(arguments[0]).read_text()):
        parsed = parser.parse_args(command)
        parsed.func(parsed)


if __name__ == "__main__":
    main(sys.argv[1:])
