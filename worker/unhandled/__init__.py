"""Events of types that no family takes: kept in Postgres, listed, replayed once a release takes them."""
