"""``python -m dev run | test | check | services | host``: every command first does the set-up that it needs.

run       the whole product on this machine: storage, identity provider, app.  --port N, --host func|dev
test      lint, types and all tests; further arguments go to pytest
check     the quick ones of these: lint, format and types
services  storage and identity provider alone, and a local.settings.json for ``func start``.  --port N
host      serves a function app: FOLDER --port N [--function-key K --master-key K]
"""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is where older ones learn it
    sys.exit("Python 3.11 or newer is needed; this is %d.%d (%s)." % (*sys.version_info[:2], sys.executable))  # noqa: UP031


def main(arguments: list[str]) -> int:
    """Runs a command; returns its exit code."""
    from dev import setup  # noqa: PLC0415 - after the check above

    name, *rest = arguments or ["--help"]
    if name in {"-h", "--help", "help"}:
        print(__doc__)
        return 0
    if name not in {"run", "test", "check", "services", "host"}:
        print(f"There is no command {name!r}.\n{__doc__}", file=sys.stderr)
        return 2
    try:
        setup.ensure(setup.TEST if name in {"test", "check"} else setup.RUN, node=name not in {"host", "check"})
    except setup.SetupFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if name == "host":
        from dev import processes  # noqa: PLC0415 - after the check above
        from dev.host import run  # noqa: PLC0415 - needs what set-up installed

        if os.environ.get("DEV_END_WITH_STDIN"):
            processes.end_with_stdin()
        return run(rest)
    from dev import commands  # noqa: PLC0415 - needs what set-up installed

    return commands.main(name, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
