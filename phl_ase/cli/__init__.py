"""The command line: ``phl COMMAND``, one module per command, one table of them in :mod:`phl_ase.cli.app`.

Exit codes: 0 done; 1 a check failed or a computation gave NaN or infinity (the input was understood, the result is no
good); 2 a mistake that the user can mend, said in one line on standard error; 130 stopped by Ctrl-C or SIGTERM.
Anything else is a defect and keeps its traceback.
"""

from phl_ase.cli.app import app, main

__all__ = ["app", "main"]
