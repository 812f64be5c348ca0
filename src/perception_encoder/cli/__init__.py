"""The `pe` command: one module per command, which parses options, calls the library and prints.

Results go to stdout; progress and messages go to stderr. Heavy modules are imported when needed.
"""
