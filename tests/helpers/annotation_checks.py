"""The checker of annotations that ``conftest.py`` puts on every function of the package."""

from beartype import BeartypeConf, beartype

# as type checkers do (PEP 484): an int is taken where a float is asked for
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
