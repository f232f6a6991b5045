"""The tests mirror the package: tests/core, tests/transport, and so on."""
