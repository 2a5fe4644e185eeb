"""The process: opens the parts, waits for windows, obeys signals, tells systemd and the operator."""
