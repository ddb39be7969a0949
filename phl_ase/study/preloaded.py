"""What every worker process needs, imported once by the server that they are copies of."""

import phl_ase.study.matrix.questions
import phl_ase.study.matrix.worker  # noqa: F401
