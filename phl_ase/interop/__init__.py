"""PHL models inside other people's simulation engines. Each module needs the package that it is named after."""
