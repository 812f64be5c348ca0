"""The `pe` command: thin functions that read arguments, call the library and write results.

stdout is data, stderr is talk. Nothing heavy is imported before a command needs it.
"""
