"""Dead letters: kept in Postgres, shown, repaired, replayed."""
