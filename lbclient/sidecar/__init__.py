"""The sidecar: lbclient by the process, for whoever does not speak Python. Needs the extra `sidecar`."""
