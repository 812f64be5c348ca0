"""Tools for language models over the Model Context Protocol. Needs the extra `mcp`.

arguments, results   what tools take and return, as clients see them
tools                the tools, over the native API's functions
transports           stdin and stdout, and the route /mcp
"""
