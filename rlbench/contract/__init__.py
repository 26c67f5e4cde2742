"""The contract between the core and a plugin: what its functions take and return, and where one stands that does not.

The plan holds plugins to it before anything is compiled, the core wherever it takes in what a task returns, and the kit
in rlbench/testing begins with it.
"""
