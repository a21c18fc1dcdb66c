"""Exit codes of commands: of sysexits.h where there is one."""

FAILED = 1
USAGE = 2
UNAVAILABLE = 69
TEMPORARY = 75
MISCONFIGURED = 78
