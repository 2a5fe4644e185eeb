"""The exit codes of the commands; docs/commands.md says what each means."""

EXIT_OK = 0
EXIT_TROUBLE = 1
EXIT_USAGE = 2
EXIT_OUT_OF_REACH = 3
EXIT_INTERRUPTED = 4
