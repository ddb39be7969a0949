"""``phl study``: schemes × regimes × probes × splits × seeds, trained alike, asked alike, and what that says.

``config`` what is asked for, ``cells`` what that is made of, ``budget`` how long each trains, ``worker`` what one
process does, ``questions`` what every model is asked, ``running`` all of it, ``gather`` and ``verdicts`` what comes of
it, ``tables``, ``figures`` and ``page`` how it is shown.
"""
