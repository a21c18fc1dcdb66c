"""Dead letters: kept in Postgres, shown, mended, replayed."""
