SCHEMA = 3  # version of ledger.json
