"""`python -m tests.support.on_terminal ARG…`: tpuserve as the terminal's foreground process.

Takes the terminal on stdin as its controlling one, so that Ctrl-C reaches it as SIGINT.
"""

from __future__ import annotations

import fcntl
import sys
import termios

from tpuserve.cli.__main__ import main

if __name__ == "__main__":
    fcntl.ioctl(sys.stdin, termios.TIOCSCTTY, 0)
    sys.exit(main())
