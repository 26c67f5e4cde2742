SCHEMA = 4  # version of ledger.json
