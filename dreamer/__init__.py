import signal
import sys


def end_quietly_on_ctrl_c(importing: bool = sys.argv[:1] == ["-m"]) -> None:
    """While the modules of a command are imported, Ctrl-C ends the process without a traceback;
    `command_line.main` listens to it from then on."""
    if importing and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


end_quietly_on_ctrl_c()
